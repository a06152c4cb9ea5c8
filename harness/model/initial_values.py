"""Draws the first values of a large table without a second array of its size."""

import copy
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

_LARGE = 2**20  # Numbers of an array for which tracing a function does not matter


def in_place(initializer: Any) -> Callable[..., Any]:
    """Returns an initializer that gives the same numbers as one of Keras's, and draws large arrays
    in the memory of the result, where Keras needs three times as much."""
    has_seed = isinstance(getattr(initializer, "seed", None), int)
    if not has_seed or not type(initializer).__module__.startswith("keras."):
        return initializer

    def draw(shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        if math.prod(shape) <= _LARGE or not tf.executing_eagerly():
            return initializer(shape, dtype)
        # In a function, TensorFlow scales the numbers where they lie. It reads the seed from a
        # variable: of a constant seed it would draw them twice, to fold constants.
        again = copy.copy(initializer)
        again.seed = keras.random.SeedGenerator(initializer.seed, name="initial_values")
        return tf.function(lambda: again(shape, dtype), autograph=False)()

    return draw
