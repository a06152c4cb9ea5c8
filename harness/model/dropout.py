"""Dropout with random bits that cost next to nothing.

On a CPU, XLA's counter-based generators (Philox, ThreeFry) take longer for the masks of the
tutorial's network than all its matrix products together. A good integer hash of (element, step,
seed) is enough for a mask.
"""

from typing import Any

import keras
import tensorflow as tf

from kernels.random_bits import random_bits


@keras.saving.register_keras_serializable(package="harness")
class HashDropout(keras.layers.Dropout):
    """Keras's Dropout with the same seed state, but masks from a hash: an element is kept if
    `random_bits >= rate * 2**32`, and then scaled by 1 / (1 - rate)."""

    def __init__(self, rate: float, *, seed: int | None = None, **kwargs: Any) -> None:
        """Args:
        rate: share of the elements to drop, from 0 to 1.
        seed: seed of the masks; each call advances a state that begins with it.
        **kwargs: arguments of `keras.layers.Layer`, such as `name` and `dtype`.
        """
        if kwargs.pop("noise_shape", None) is not None:
            raise ValueError("HashDropout draws for every element; noise_shape must be None")
        super().__init__(rate, seed=seed, **kwargs)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.rate in (0, 1) or not inputs.dtype.is_floating:
            return super().call(inputs, training=training)
        bits = random_bits(tf.shape(inputs), tf.convert_to_tensor(self.seed_generator.next()))
        keep = bits >= tf.constant(int(self.rate * 2**32), tf.uint32)
        scale = tf.constant(1 / (1 - self.rate), inputs.dtype)
        return tf.where(keep, inputs * scale, tf.zeros([], inputs.dtype))
