"""Draws the first values of a large table without a second array of its size."""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

_BLOCK_NUMBERS = 2**20
_PHILOX_NUMBERS = 4  # Numbers that the generator makes of one value of its counter
_SEEDS = 2**31 - 2  # Modulus by which Keras reduces seeds


def in_blocks(initializer: Any, *, block_numbers: int = _BLOCK_NUMBERS) -> Callable[..., Any]:
    """Returns an initializer of matrices that gives the same numbers as one of Keras's, and needs
    only some blocks of memory besides the matrix, where Keras needs three times the matrix. This is
    for uniform `VarianceScaling` (Glorot, He, LeCun) with a number as seed; others are returned as
    they are."""
    scaling = keras.initializers.VarianceScaling
    uniform = (
        isinstance(initializer, scaling)
        and type(initializer).__call__ is scaling.__call__
        and initializer.distribution == "uniform"
        and initializer.input_axes is None
        and initializer.output_axes is None
        and isinstance(initializer.seed, int)
    )
    if not uniform:
        return initializer

    def draw(shape: tuple[int, int], dtype: Any = None) -> tf.Tensor:
        if math.prod(shape) <= block_numbers or not tf.executing_eagerly():
            return initializer(shape, dtype)
        dtype = tf.as_dtype(dtype or keras.config.floatx())
        V, H = shape
        fan = {"fan_in": V, "fan_out": H}.get(initializer.mode, (V + H) / 2)
        limit = math.sqrt(3 * initializer.scale / max(1, fan))
        low, high = tf.constant(-limit, dtype), tf.constant(limit, dtype)
        seed = tf.constant([initializer.seed % _SEEDS, 0], tf.int32)
        # Philox counts: blocks that start at their count give the same numbers as one draw.
        key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
        first = sum(int(word) << 64 * i for i, word in enumerate(counter.numpy()))
        algorithm = tf.raw_ops.StatelessRandomGetAlg()
        block_rows = _PHILOX_NUMBERS * max(1, block_numbers // (_PHILOX_NUMBERS * H))
        table = tf.raw_ops.Empty(shape=shape, dtype=dtype)
        for begin in range(0, V, block_rows):
            end = min(V, begin + block_rows)
            count = first + begin * H // _PHILOX_NUMBERS
            words = [count >> 64 * i & (2**64 - 1) for i in range(2)]
            numbers = tf.raw_ops.StatelessRandomUniformV2(
                shape=[end - begin, H],
                key=key,
                counter=tf.constant(words, tf.uint64),
                dtype=dtype,
                alg=algorithm,
            )
            # In place; reading a variable to assign to its slices would copy it.
            table = tf.raw_ops.InplaceUpdate(
                x=table, i=tf.range(begin, end), v=numbers * (high - low) + low
            )
        return table

    return draw
