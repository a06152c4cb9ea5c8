"""A small network on real devices with a real stream: what the engine's tests drive."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.config import ModelConfig, OptimizerConfig
from harness.data.ragged import RaggedSets
from harness.engine.devices import Devices, set_up_devices
from harness.engine.replica import Replica, build_replicas
from harness.engine.step import TrainingStep
from harness.model.network import Network, build_network
from harness.model.precision import needs_loss_scaling
from harness.pipeline.batch import Batches
from harness.pipeline.plan import Dispatch, Plan, training_plan
from harness.pipeline.stream import Stream

State = list[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Rig:
    """One network, ready to train on one stream."""

    sets: RaggedSets
    devices: Devices
    network: Network
    replicas: tuple[Replica, ...]
    step: TrainingStep
    plan: Plan
    epochs: int

    def stream(self, *, start_step: int = 0) -> Stream:
        return Stream(self.sets, self.plan, epochs=self.epochs, start_step=start_step)

    def train(self, *, start_step: int = 0, num_dispatches: int | None = None) -> np.ndarray:
        """The sums of each dispatch, float64 [dispatches, NUM_SUMS + 2]."""
        sums = []
        for dispatch, batches in self.dispatches(start_step=start_step):
            if len(sums) == num_dispatches:
                break
            sums.append(self.step(batches, dispatch.num_steps).numpy())
        return np.array(sums)

    def dispatches(self, *, start_step: int = 0) -> Iterator[tuple[Dispatch, tuple[Batches, ...]]]:
        return iter(self.stream(start_step=start_step))

    def state(self) -> list[State]:
        """Every variable that training changes, for each replica."""
        return [[variable.numpy() for variable in replica.state()] for replica in self.replicas]

    def set_state(self, state: list[State]) -> None:
        for replica, values in zip(self.replicas, state, strict=True):
            for variable, value in zip(replica.state(), values, strict=True):
                variable.assign(value)

    def randomize(self, rng: np.random.Generator) -> None:
        """New weights and biases, alike on all replicas."""
        shapes = [weights.shape for weights in self.network.logits.get_weights()]
        self.network.logits.set_weights([rng.normal(scale=0.7, size=shape) for shape in shapes])


def build_rig(
    sets: RaggedSets,
    *,
    replicas: int = 1,
    batch_size: int = 8,
    steps_per_dispatch: int = 4,
    epochs: int = 1,
    hidden_units: tuple[int, ...] = (6, 4),
    dropout: float = 0.0,
    optimizer: str = "adam",
    learning_rate: float | None = None,
    clip_norm: float | None = None,
    implementation: str = "gather",
    precision: str = "float32",
    seed: int = 0,
) -> Rig:
    devices = set_up_devices(replicas)
    with devices.strategy.scope():
        network = build_network(
            ModelConfig(hidden_units=hidden_units, dropout=(dropout,)),
            num_tokens=sets.num_tokens,
            num_classes=sets.num_classes,
            implementation=implementation,
            unique=sets.is_unique,
            dtype=precision,
            seed=seed,
        )
    own = build_replicas(
        network.logits,
        devices,
        OptimizerConfig(optimizer=optimizer, learning_rate=learning_rate, clip_norm=clip_norm),
        scaled=needs_loss_scaling(precision),
    )
    plan = training_plan(
        sets.lengths,
        batch_size=batch_size,
        replicas=replicas,
        steps_per_dispatch=steps_per_dispatch,
        seed=seed,
    )
    return Rig(
        sets=sets,
        devices=devices,
        network=network,
        replicas=own,
        step=TrainingStep(network.logits, own, devices),
        plan=plan,
        epochs=epochs,
    )


def steps_of(batches: tuple[Batches, ...], start: int, stop: int) -> tuple[Batches, ...]:
    """Steps `start` to `stop` of a dispatch, as a dispatch of their own."""
    return tuple(Batches(*(field[start:stop] for field in replica)) for replica in batches)


def assert_same(left: list[State], right: list[State]) -> None:
    """Every variable is bit-identical."""
    for replica, (a, b) in enumerate(zip(left, right, strict=True)):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            np.testing.assert_array_equal(x, y, err_msg=f"replica {replica} variable {index}")
