"""What one device holds: its copies of the variables, with an optimizer of its own.

The strategy mirrors the network's variables and sums gradients; from there on every replica updates
its own copies. All replicas start alike and see the same summed gradients, so they stay alike, and
the update can be compiled and skipped (loss scaling) on each device without asking the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from harness.config import OptimizerConfig
from harness.engine.devices import Devices
from harness.engine.loss_scale import LossScale
from harness.engine.optimizer import build_optimizer

_SEED_STRIDE = 1_000_003
"""Between the dropout seeds of neighbouring replicas: a prime, so that layers do not collide."""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One device's part of the training state."""

    device: str
    index: int
    variables: tuple[tf.Variable, ...]
    """This device's copies of the trainable variables, in the network's order."""
    seeds: tuple[tf.Variable, ...]
    """This device's copies of the dropout layers' seed states, int64 [2] each."""
    optimizer: keras.optimizers.Optimizer
    loss_scale: LossScale | None

    def update(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Applies gradients that were summed over all replicas.

        Returns:
            int32 scalar: 1 where the step was skipped as not finite, else 0.
        """
        with tf.name_scope("optimizer"):  # what a profile calls it
            if self.loss_scale is None:
                self.optimizer.apply(gradients)
                return tf.constant(0)
            return self.loss_scale.apply(gradients, lambda: self.optimizer.apply(gradients))

    def parts(self) -> dict[str, list[tf.Variable]]:
        """Every variable that a training step may change on this device, by what it is of."""
        return {
            "weights": list(self.variables),
            "seeds": list(self.seeds),
            type(self.optimizer).__name__: [v.value for v in self.optimizer.variables],
            "loss_scale": [] if self.loss_scale is None else list(self.loss_scale.variables),
        }

    def state(self) -> list[tf.Variable]:
        """The variables of all parts."""
        return [variable for part in self.parts().values() for variable in part]


def build_replicas(
    model: keras.Model, devices: Devices, config: OptimizerConfig, *, scaled: bool
) -> tuple[Replica, ...]:
    """One replica for each device, around the copies of `model`'s variables that live there.

    Call it outside the strategy's scope: each optimizer's variables belong to one device.
    """
    assert not tf.distribute.has_strategy(), "an optimizer built here would be mirrored"
    trainable = [_copies(devices, v) for v in model.trainable_variables]
    seeds = [_copies(devices, v) for v in model.non_trainable_variables]
    replicas = []
    for index, device in enumerate(devices.names):
        variables = tuple(copies[index] for copies in trainable)
        with tf.device(device):
            optimizer = build_optimizer(config)
            optimizer.build([keras.Variable(v) for v in variables])
            loss_scale = LossScale() if scaled else None
        replicas.append(
            Replica(
                device=device,
                index=index,
                variables=variables,
                seeds=tuple(copies[index] for copies in seeds),
                optimizer=optimizer,
                loss_scale=loss_scale,
            )
        )
    align_replicas(tuple(replicas))
    return tuple(replicas)


def align_replicas(replicas: tuple[Replica, ...]) -> None:
    """Makes every replica continue from the first one's state, each with dropout of its own.

    Without a seed of its own a replica would drop the same units as its neighbours.
    """
    first = replicas[0]
    for other in replicas[1:]:
        for source, target in zip(first.state(), other.state(), strict=True):
            target.assign(source)
        for seed in other.seeds:
            offset = tf.constant([other.index * _SEED_STRIDE, 0], seed.dtype)
            seed.assign(seed + offset)


def _copies(devices: Devices, variable: keras.Variable) -> tuple[tf.Variable, ...]:
    return tuple(devices.strategy.experimental_local_results(variable.value))
