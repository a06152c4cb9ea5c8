"""A small model with a real feed, which the programs' tests drive."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.feed.batch import BatchesByRows, Columns
from harness.feed.feed import Feed, build_feed
from harness.feed.plan import Call, Dispatch, Plan
from harness.model.network import DefaultNetwork, ModelFunction, build_model
from harness.model.optimizers import optimizer_factory
from harness.program.devices import Devices, set_up_devices
from harness.program.model_programs import ModelPrograms
from harness.program.program import Program
from harness.program.state import State
from harness.program.step import Forward
from harness.program.strategy import copies_of
from harness.program.tables import TablePlan, layers_of
from harness.task.task import ResolvedTask, Task
from kernels.multi_hot.table_rules import Rule

Batches = BatchesByRows
Values = list[list[np.ndarray]]
"""The values of every variable of each device."""


@dataclass(frozen=True, kw_only=True)
class Rig:
    """One model, ready to train on one feed."""

    examples: Examples
    devices: Devices
    model: keras.Model
    task: ResolvedTask
    programs: ModelPrograms
    implementation: str
    feed: Feed
    plan: Plan
    epochs: int

    @property
    def state(self) -> State:
        return self.programs.state

    @property
    def training(self) -> Program:
        """The training program, to drive call by call."""
        return self.programs._training

    @property
    def forward(self) -> Forward:
        return self.programs.forward

    def dispatches(self, *, start_step: int = 0) -> Iterator[tuple[Dispatch, Batches]]:
        return self.feed.dispatches(self.plan, epochs=self.epochs, start_step=start_step)

    def run(self, call: Call, batches: Batches) -> np.ndarray:
        """Runs a call, compiled if it is the first of its kind; returns its sums, float64
        [row sums]."""
        self.training.compile(batches, call, at_step=0)
        return np.sum([sums.numpy() for sums in self.training(call, batches)], axis=0)

    def train(self, *, start_step: int = 0, num_calls: int | None = None) -> np.ndarray:
        """Trains; returns the sums of each call, float64 [calls, row sums]."""
        sums: list[np.ndarray] = []
        for dispatch, batches in self.dispatches(start_step=start_step):
            for call in dispatch.calls:
                if len(sums) == num_calls:
                    return np.array(sums)
                sums.append(self.run(call, batches))
        return np.array(sums)

    def values(self) -> Values:
        """Returns the values of everything that training changes."""
        return [[copy.numpy() for copy in copies] for copies in zip(*self._copies(), strict=True)]

    def set_values(self, values: Values) -> None:
        for copies, own in zip(zip(*self._copies(), strict=True), values, strict=True):
            for copy, value in zip(copies, own, strict=True):
                copy.assign(value)

    def _copies(self) -> list[list[tf.Variable]]:
        sums = [variable for own in self.state.sums for variable in own]
        return [copies_of(variable) for variable in [*self.state.named.values(), *sums]]

    @property
    def weight_names(self) -> list[str]:
        """The names of the weights in the order of the layers: kernel, bias, kernel, bias ..."""
        return [variable.path for variable in self.model.trainable_variables]

    def weights(self) -> list[np.ndarray]:
        """Returns the weights in the order of `weight_names`."""
        trained = self.state.trained
        return [copies_of(trained[name])[0].numpy() for name in self.weight_names]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Sets the same weights on all devices."""
        named = {f"model/{n}": w for n, w in zip(self.weight_names, weights, strict=True)}
        self.state.restore({**self.state.save(), **named})

    def randomize(self, rng: np.random.Generator) -> None:
        """Draws new weights and biases."""
        self.set_weights(
            [rng.normal(scale=0.7, size=w.shape).astype(np.float32) for w in self.weights()]
        )


def on_cpus(number: int) -> Devices:
    """Returns so many logical CPU devices, under TensorFlow's MirroredStrategy."""
    names = tuple(f"/CPU:{index}" for index in range(number))
    return Devices(
        names=names, num_replicas=number, device_type="CPU", descriptions=names, memory_bytes=2**30
    )


def build_rig(
    rows: RaggedSets | Examples,
    *,
    model: ModelFunction | keras.Model | None = None,
    task: Task | None = None,
    devices: Devices | None = None,
    batch_size: int = 8,
    steps_per_call: int = 4,
    epochs: int = 1,
    hidden_units: tuple[int, ...] = (6,),
    activation: str = "relu",
    dropout: float = 0.0,
    optimizer: str | keras.optimizers.Optimizer = "adam",
    learning_rate: float | None = None,
    clip_norm: float | None = None,
    implementation: str = "gather",
    precision: str = "float32",
    seed: int = 0,
    input: str = "stream",
    rule: Rule | None = None,
) -> Rig:
    """Builds a rig of the model, or of the default network for ragged sets; updates its tables by
    `rule` if there is one."""
    examples = Examples.of(rows)
    devices = devices or set_up_devices(1)
    settled = (task or Task()).settled(examples)
    if model is None:
        model = DefaultNetwork(
            hidden_units=hidden_units,
            dropout=[dropout] * len(hidden_units),
            activation=activation,
            num_tokens=examples.ragged[""].num_tokens,
            num_classes=settled.num_classes,
            seed=seed,
        )
    built = build_model(model, examples, dtype=precision, device=devices.names[0], seed=seed)
    built.dtype_policy = precision
    plan = rule and TablePlan(rule, "native" if implementation == "native" else "gather")
    if isinstance(optimizer, str):
        optimizer = optimizer_factory(optimizer, learning_rate=learning_rate, clip_norm=clip_norm)()
    return Rig(
        examples=examples,
        devices=devices,
        model=built,
        task=settled,
        programs=ModelPrograms(
            built,
            settled,
            devices,
            optimizer,
            implementation=implementation,
            unique=frozenset(n for n, sets in examples.ragged.items() if sets.is_unique),
            tables=dict.fromkeys(layers_of(built), plan) if plan else {},
        ),
        implementation=implementation,
        feed=build_feed(input, examples, devices=devices.names),
        plan=Plan(
            lengths=Columns.of(examples).lengths,
            batch_size=batch_size,
            replicas=len(devices.names),
            steps_per_call=steps_per_call,
            seed=seed,
            epochs=epochs,
        ),
        epochs=epochs,
    )


def sets_with_outliers(rng: np.random.Generator, rows: int = 320) -> RaggedSets:
    """Draws rows of 5 ids, and one of 3,000."""
    lengths = np.full(rows, 5)
    lengths[rng.integers(rows)] = 3_000
    splits = np.concatenate([[0], np.cumsum(lengths)])
    return RaggedSets(
        values=rng.integers(0, 40, splits[-1]),
        row_splits=splits,
        labels=rng.integers(0, 2, rows),
        num_tokens=40,
        name="outliers",
    )


def step_of(call: Call, step: int) -> Call:
    """Returns one step of a call as a separate call."""
    return replace(call, first=call.first + step, num_steps=1)


def assert_same(left: Any, right: Any) -> None:
    """Asserts that every variable is bit-identical, in `Values` or those of one device."""
    for index, (x, y) in enumerate(zip(left, right, strict=True)):
        if isinstance(x, list):
            assert_same(x, y)
        else:
            np.testing.assert_array_equal(x, y, err_msg=f"variable {index}")
