"""The random seeds of a model's layers, in one variable.

A dropout layer counts its calls in a seed of its own, and on a GPU the update of each would be a
kernel. In a loop there need be none: nearly every layer draws once in a step, so that its seed
follows from the number of the step.
"""

import contextlib
from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from harness.program.stored import packed

_DRAW = np.array([0, 1])
"""What a draw adds to a seed."""
_STRIDE = 1_000_003
"""Between the seeds of neighbouring devices: a prime, so that layers do not collide."""


class Seeds:
    """Copies of a model's seeds on the device at hand."""

    NAME = "/seeds"
    """Of their variable's next value among the changes of a call."""

    def __init__(self, seeds: Mapping[str, keras.Variable]) -> None:
        self.stored = [packed(seeds)] if seeds else []
        """One, or none where the model has none."""
        self._draws = np.tile(_DRAW, len(seeds))
        """One of each seed, int64 [2 for each]."""
        self._loop: tuple[tf.Tensor, tf.Tensor] | None = None
        """Of the loop that is traced the values before it and those of its steps."""
        self._step: tf.Tensor | None = None
        self._is_behind = False

    def values(self) -> dict[str, tf.Tensor]:
        """Of each seed, by name."""
        found: dict[str, tf.Tensor] = {}
        for held in self.stored:
            value = tf.convert_to_tensor(held.variable)
            if self._loop is not None:
                before, of_steps = self._loop
                # XLA sees that the difference is 0 where no step changes the variable.
                value = of_steps[self._step] + (value - before)
            found |= held.split(value)
        return found

    @contextlib.contextmanager
    def in_loop(self, num_steps: int) -> Iterator[None]:
        """Around a loop of steps in a compiled program, each of which says its number by `at`. To
        the variable a step adds only by how much its draws differ from one of each seed; those are
        added after the loop."""
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

    def at(self, step: tf.Tensor) -> None:
        """Begins a step of a loop, int32 [], counted from 0."""
        self._step = step

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
        name; without it, where a loop knows it already."""
        found = dict(changes)
        for held in self.stored:
            if self._loop is None and not found.keys() & held.shapes.keys():
                continue
            found = {n: value for n, value in found.items() if n not in held.shapes}
            variable = tf.convert_to_tensor(held.variable)
            self._is_behind = self._loop is not None
            expected = self._draws if self._is_behind else np.zeros_like(self._draws)
            added = [_added(after[name], before[name]) for name in held.shapes]
            known = [constant for constant in added if constant is not None]
            if len(known) < len(added):
                change = held.join(after) - held.join(before) - expected
                found[self.NAME] = variable + change
            elif (np.concatenate(known) != expected).any():
                # In place. What is put together from parts, XLA would write elsewhere and copy.
                found[self.NAME] = variable + (np.concatenate(known) - expected)
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
