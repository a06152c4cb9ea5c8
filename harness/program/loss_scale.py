"""Dynamic loss scaling for float16, decided from the gradients that all replicas agreed on.

Keras's LossScaleOptimizer decides on replica 0's own gradients before they are summed, so a NaN of
another replica passes. Constants and rule are Keras's: doubled after 2,000 finite steps in a row,
halved at a step that is not finite, whose update is skipped (Micikevicius et al., "Mixed Precision
Training", 2018, section 3.2).
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from harness.program.finite import all_finite, all_finite_by_one_kernel

_INITIAL_SCALE = 2.0**15
_GROWTH_STEPS = 2_000


class LossScale:
    """The factor on the loss, and its history. Every device holds one; all move alike."""

    def __init__(self, *, for_gpu: bool = False) -> None:
        """Args:
        for_gpu: whether programs are to be such as suit a GPU.
        """
        self._all_finite = all_finite_by_one_kernel if for_gpu else all_finite
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
        gradients: Sequence[tf.Tensor | tf.IndexedSlices],
        update: Callable[[Sequence[tf.Tensor | tf.IndexedSlices], tf.Tensor], None],
        updated: Sequence[tf.Variable],
    ) -> None:
        """Applies gradients if all of them are finite, then adapts the scale.

        The update is computed in any case and taken where it counts: to branch, a GPU's program
        would wait for the host in every step.

        Args:
            gradients: of the loss with the scale, summed over all replicas.
            update: applies them without the scale, given whether they count.
            updated: every variable that it changes, but for those that it leaves as they are where
                the gradients do not count.
        """
        scale, steps, skipped = map(tf.convert_to_tensor, self.named().values())
        # Each of these numbers follows from the one before, so that on a GPU one kernel finds all,
        # with what the optimizer makes of its count of steps. Updates read the scale from there: it
        # could not be changed in place if they read the variable.
        every = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        divisor = tf.where(self._all_finite(every), scale, -1.0)
        finite = divisor > 0
        steps_after = tf.where(finite & (steps + 1 < _GROWTH_STEPS), steps + 1, 0)
        other_scale = tf.where(finite, scale * 2.0, tf.maximum(scale / 2.0, 1.0))
        scale_after = tf.where(steps_after > 0, scale, other_scale)
        counts = (steps_after > 0) | (scale_after > scale)
        skipped_after = skipped + tf.cast(~counts, tf.int64)
        before = [tf.convert_to_tensor(variable) for variable in updated]
        unscaled = [without(gradient, divisor) for gradient in gradients]
        update(unscaled, tf.equal(skipped_after, skipped))
        for variable, old in zip(updated, before, strict=True):
            variable.assign(tf.where(finite, variable, old))
        self.scale.assign(scale_after)
        self.finite_steps.assign(steps_after)
        self.skipped_steps.assign(skipped_after)


def without(
    gradient: tf.Tensor | tf.IndexedSlices, scale: tf.Tensor
) -> tf.Tensor | tf.IndexedSlices:
    """A gradient of any float type, divided by a scale, float32 []."""
    if isinstance(gradient, tf.IndexedSlices):
        values = without(gradient.values, scale)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return tf.cast(tf.cast(gradient, tf.float32) / scale, gradient.dtype)
