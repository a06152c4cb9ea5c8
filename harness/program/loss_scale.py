"""Dynamic loss scaling for float16, decided from the gradients that all replicas agreed on.

Keras's LossScaleOptimizer decides from replica 0's own gradients before they are summed, so a NaN
of another replica passes. The constants and the rule are Keras's: the scale doubles after 2,000
finite steps in a row, and halves at a step that is not finite, whose update is skipped
(Micikevicius et al., "Mixed Precision Training", 2018, section 3.2).
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from harness.program.finite import all_finite, all_finite_by_one_kernel

_INITIAL_SCALE = 2.0**15
_GROWTH_STEPS = 2_000


class LossScale:
    """The factor on the loss, and its history. Every device holds one, and all change alike."""

    def __init__(self, *, for_gpu: bool = False) -> None:
        self._all_finite = all_finite_by_one_kernel if for_gpu else all_finite
        self.scale = tf.Variable(_INITIAL_SCALE, trainable=False, name="loss_scale")
        self.finite_steps = tf.Variable(0, trainable=False, dtype=tf.int64)  # in a row
        self.skipped_steps = tf.Variable(0, trainable=False, dtype=tf.int64)  # since set to 0

    def named(self) -> dict[str, tf.Variable]:
        return {name: getattr(self, name) for name in ("scale", "finite_steps", "skipped_steps")}

    def apply(
        self,
        gradients: Sequence[tf.Tensor | tf.IndexedSlices],
        update: Callable[[Sequence[tf.Tensor | tf.IndexedSlices], tf.Tensor], None],
        updated: Sequence[tf.Variable],
    ) -> None:
        """Applies gradients of the scaled loss, summed over all replicas, if all of them are
        finite, then adapts the scale. `update` applies gradients without the scale, given whether
        they count. It is run in any case, and the variables in `updated` are put back if the
        gradients do not count: to branch, a GPU's program would wait for the host in every step."""
        scale, steps, skipped = map(tf.convert_to_tensor, self.named().values())
        # Each of these numbers follows from the one before, so that one kernel of a GPU computes
        # them all, along with the numbers that the optimizer derives from its count of steps.
        # Updates read the scale from `divisor`: if they read the variable, it could not be changed
        # in place.
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
    """Returns a gradient of any float dtype, divided by a scale, float32 []."""
    if isinstance(gradient, tf.IndexedSlices):
        values = without(gradient.values, scale)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return tf.cast(tf.cast(gradient, tf.float32) / scale, gradient.dtype)
