"""Variables that hold one thing, or several small ones, one behind another.

A network has many small weights, and an update of each is a kernel of its own, which on a GPU takes
longer to launch than to run. In one variable they take one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

_SMALL = 1024
"""Elements below which weights are packed. Larger ones would have to be copied out of the packed
variable before a matrix product, which costs as much as an update of their own."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Stored:
    """A variable, and the names and shapes of what it holds; one of the variable's own shape, or
    several in a vector."""

    variable: tf.Variable
    shapes: Shapes

    @classmethod
    def whole(cls, name: str, variable: tf.Variable) -> "Stored":
        """What fills a variable of its own."""
        return cls(variable, {name: tuple(variable.shape)})

    def tensors(self) -> dict[str, tf.Tensor]:
        """The present values by name, through which gradients flow to `variable`."""
        value = tf.convert_to_tensor(self.variable)
        if len(self.shapes) == 1:
            return dict.fromkeys(self.shapes, value)
        parts = tf.split(value, [math.prod(shape) for shape in self.shapes.values()])
        return {
            name: tf.reshape(part, shape)
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }


def is_small(variable: keras.Variable) -> bool:
    """Whether a weight is one to be held together with others."""
    return math.prod(variable.shape) < _SMALL and variable.dtype == "float32"


def split(array: np.ndarray, shapes: Shapes) -> dict[str, np.ndarray]:
    """A variable's value as arrays by name."""
    if len(shapes) == 1:
        return dict.fromkeys(shapes, array)
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(array, ends[:-1])
    return {n: part.reshape(shapes[n]) for n, part in zip(shapes, parts, strict=True)}


def join(arrays: Mapping[str, np.ndarray], shapes: Shapes) -> np.ndarray:
    """The value of a variable that holds these arrays: the inverse of `split`."""
    if len(shapes) == 1:
        return arrays[next(iter(shapes))]
    return np.concatenate([arrays[name].reshape(-1) for name in shapes])
