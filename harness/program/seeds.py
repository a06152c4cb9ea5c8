"""The random seeds of a model's layers, in one variable.

A dropout layer counts its calls in a seed of its own, and on a GPU each seed's update would be a
kernel. A loop needs no such update: nearly every layer draws once in a step, so that its seed
follows from the step's number.
"""

import contextlib
from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from harness.program.packing import packed

# The difference between the seeds of neighbouring devices: a prime, so that layers do not collide.
_STRIDE = 1_000_003


class Seeds:
    """Copies of a model's seeds on the current device."""

    NAME = "/seeds"  # of the next value of the variable that holds them

    def __init__(self, seeds: Mapping[str, keras.Variable]) -> None:
        # A list of one variable for all seeds; empty if the model has no seeds.
        self.stored = [packed(seeds)] if seeds else []
        # The change of the variable by one draw from each seed, int64 [2 * seeds].
        self._draws = np.tile([0, 1], len(seeds))
        # The variable's values before the loop being traced, if any, and in each of its steps.
        self._loop: tuple[tf.Tensor, tf.Tensor] | None = None
        self.step: tf.Tensor | None = None  # number of the step being traced in the loop
        self._is_behind = False

    def values(self) -> dict[str, tf.Tensor]:
        found: dict[str, tf.Tensor] = {}
        for held in self.stored:
            value = tf.convert_to_tensor(held.variable)
            if self._loop is not None:
                before, of_steps = self._loop
                # XLA sees that the difference is 0 where no step changes the variable.
                value = of_steps[self.step] + (value - before)
            found |= held.split(value)
        return found

    @contextlib.contextmanager
    def in_loop(self, num_steps: int) -> Iterator[None]:
        """Surrounds a loop of steps in a compiled program, each of which sets `step`.
        A step adds to the variable only the difference between its draws and one draw from each
        seed; those single draws are added for all steps after the loop."""
        for held in self.stored:
            before = tf.convert_to_tensor(held.variable)
            self._loop = before, before + np.arange(num_steps)[:, None] * self._draws
        self._is_behind = False
        try:
            yield
        finally:
            self._loop = None
        for held in self.stored if self._is_behind else ():
            held.variable.assign_add(num_steps * self._draws)

    def move(self, shares: int) -> None:
        """Makes them the seeds of a device so many shares further on."""
        for held in self.stored:
            away = np.tile(np.array([shares * _STRIDE, 0], np.int64), len(held.shapes))
            held.variable.assign_add(away)

    def together(
        self,
        changes: Mapping[str, tf.Tensor],
        before: Mapping[str, tf.Tensor],
        after: Mapping[str, tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """Returns the changes of a call, with those of seeds merged under `NAME` unless only the
        draws that a loop expects change them. `before` and `after` are values around the call."""
        if not self.stored:
            return dict(changes)
        (held,) = self.stored
        found = {n: value for n, value in changes.items() if n not in held.shapes}
        self._is_behind = self._loop is not None
        expected = self._draws if self._is_behind else np.zeros_like(self._draws)
        added = [_added(after[name], before[name]) for name in held.shapes]
        known = [constant for constant in added if constant is not None]
        if len(known) < len(added):
            change = held.join(after) - held.join(before) - expected
        else:
            # XLA adds a constant in place, but writes a value joined from parts elsewhere first.
            change = np.concatenate(known) - expected
            if not change.any():
                return found
        return found | {self.NAME: tf.convert_to_tensor(held.variable) + change}


def _added(after: tf.Tensor, before: tf.Tensor) -> np.ndarray | None:
    """Returns the constant, int64 [2], by which `after` exceeds `before`, if it is one."""
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
