"""Dynamic loss scaling for float16, decided from the gradients that all replicas agreed on.

Keras's LossScaleOptimizer decides on replica 0's own gradients before they are summed, so a NaN of
another replica passes. Constants and rule are Keras's: doubled after 2,000 finite steps in a row,
halved at a step that is not finite, whose update is skipped (Micikevicius et al., "Mixed Precision
Training", 2018, section 3.2).
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

_INITIAL_SCALE = 2.0**15
_GROWTH_STEPS = 2_000


class LossScale:
    """The factor on the loss, and its history. Every device holds one; all move alike."""

    def __init__(self) -> None:
        self.scale = tf.Variable(_INITIAL_SCALE, trainable=False, name="loss_scale")
        # int32 variables would be in host memory, where a program of a GPU cannot reach them.
        self.finite_steps = tf.Variable(0, trainable=False, dtype=tf.int64)
        """In a row."""
        self.skipped_steps = tf.Variable(0, trainable=False, dtype=tf.int64)
        """Since someone set it to 0."""

    def named(self) -> dict[str, tf.Variable]:
        """Its variables."""
        return {name: getattr(self, name) for name in ("scale", "finite_steps", "skipped_steps")}

    def apply(
        self,
        gradients: Sequence[tf.Tensor],
        update: Callable[[Sequence[tf.Tensor], tf.Tensor], None],
        updated: Sequence[tf.Variable],
        *,
        others: Sequence[tf.Tensor] = (),
    ) -> None:
        """Applies gradients if all of them are finite, then adapts the scale.

        The update is computed in any case and taken where it counts: to branch, a GPU's program
        would wait for the host in every step.

        Args:
            gradients: without the scale, summed over all replicas.
            update: applies them, given whether they count.
            updated: every variable that it changes, but for those that it leaves as they are where
                the gradients do not count.
            others: gradients that must be finite too.
        """
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in [*gradients, *others]])
        before = [tf.convert_to_tensor(variable) for variable in updated]
        update(gradients, finite)
        for variable, old in zip(updated, before, strict=True):
            variable.assign(tf.where(finite, variable, old))
        grown = finite & (self.finite_steps + 1 >= _GROWTH_STEPS)
        smaller = tf.maximum(self.scale / 2.0, 1.0)
        self.scale.assign(tf.where(finite, tf.where(grown, self.scale * 2.0, self.scale), smaller))
        self.finite_steps.assign(tf.where(finite & ~grown, self.finite_steps + 1, 0))
        self.skipped_steps.assign_add(tf.cast(~finite, tf.int64))
