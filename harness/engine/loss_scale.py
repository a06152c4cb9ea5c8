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


class LossScale(tf.Module):
    """The factor on the loss, and its history. Every replica holds one; all move alike."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = tf.Variable(_INITIAL_SCALE, trainable=False, name="loss_scale")
        self.finite_steps = tf.Variable(0, trainable=False, name="finite_steps")

    def apply(self, gradients: Sequence[tf.Tensor], update: Callable[[], None]) -> tf.Tensor:
        """Runs `update` if every gradient is finite, then adapts the scale.

        Returns:
            int32 scalar: 1 where the update was skipped, else 0.
        """
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])

        def good() -> tf.Tensor:
            update()
            grown = self.finite_steps + 1 >= _GROWTH_STEPS
            self.scale.assign(tf.where(grown, self.scale * 2.0, self.scale))
            self.finite_steps.assign(tf.where(grown, 0, self.finite_steps + 1))
            return tf.constant(0)

        def bad() -> tf.Tensor:
            self.scale.assign(tf.maximum(self.scale / 2.0, 1.0))
            self.finite_steps.assign(0)
            return tf.constant(1)

        return tf.cond(finite, good, bad)
