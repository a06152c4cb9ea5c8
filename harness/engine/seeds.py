"""The random seeds of a model's layers, in one variable.

A dropout layer counts its calls in a seed of its own, and on a GPU the update of each would be a
kernel.
"""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from harness.engine.stored import packed

_STRIDE = 1_000_003
"""Between the seeds of neighbouring devices: a prime, so that layers do not collide."""


class Seeds:
    """Copies of a model's seeds on the device at hand."""

    NAME = "/seeds"
    """Of their variable's next value among the changes of a call."""

    def __init__(self, seeds: Mapping[str, keras.Variable]) -> None:
        self.stored = [packed(seeds)] if seeds else []
        """One, or none where the model has none."""

    def values(self) -> dict[str, tf.Tensor]:
        """Of each seed, by name."""
        return {n: v for held in self.stored for n, v in held.split(held.variable).items()}

    def spread(self, first: Mapping[str, np.ndarray], share: int) -> None:
        """Makes the seeds of a share of the batch follow from those of the first one."""
        own = np.array([share * _STRIDE, 0], np.int64)
        for held in self.stored:
            held.variable.assign(held.join({name: first[name] + own for name in held.shapes}))

    def together(
        self,
        changes: Mapping[str, tf.Tensor],
        before: Mapping[str, tf.Tensor],
        after: Mapping[str, tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """The changes of a call with those of seeds as one, from all values before and after it, by
        name."""
        found = dict(changes)
        for held in self.stored:
            if not found.keys() & held.shapes.keys():
                continue
            added = [_added(after[name], before[name]) for name in held.shapes]
            known = [constant for constant in added if constant is not None]
            if len(known) == len(added):
                # In place. What is put together from parts, XLA would write elsewhere and copy.
                new = tf.convert_to_tensor(held.variable) + np.concatenate(known)
            else:
                new = held.join(after)
            others = {n: value for n, value in found.items() if n not in held.shapes}
            found = {**others, self.NAME: new}
        return found


def _added(after: tf.Tensor, before: tf.Tensor) -> np.ndarray | None:
    """The constant, int64 [2], that was added to one tensor where that gave the other; None where
    it is none, or not known to be."""
    total = np.zeros(2, np.int64)
    while after is not before:
        if not tf.is_symbolic_tensor(after) or after.op.type != "AddV2":
            return None
        after, constant = after.op.inputs
        value = tf.get_static_value(constant)
        if value is None:
            return None
        total += value
    return total
