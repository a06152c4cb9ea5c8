"""Variables that hold one weight or several small ones, which have names.

A network has many small weights, and each weight's update is a kernel, which on a GPU takes longer
to launch than to run. Weights in one variable need only one kernel.
"""

import functools
import math
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Elements below which weights are packed into a vector. Larger weights would have to be copied out
# of it before a matrix product, which costs as much as an update of their own.
_SMALL = 1024


@dataclass(frozen=True)
class Stored:
    """A variable, and the names and shapes of the tensors that it holds: one of the variable's own
    shape, or several concatenated to a vector."""

    variable: tf.Variable
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def whole(cls, name: str, variable: tf.Variable) -> "Stored":
        return cls(variable, {name: tuple(variable.shape)})

    def like(self, variable: tf.Variable, pattern: str) -> "Stored":
        """Returns another variable of such tensors, with their names put into a pattern's `{}`."""
        names = [pattern.format(name) for name in self.shapes]
        if len(names) == 1:  # some optimizers have slots of another shape than the weight's
            return Stored.whole(names[0], variable)
        return Stored(variable, dict(zip(names, self.shapes.values(), strict=True)))

    def split(self, value: Any) -> dict[str, Any]:
        """Returns the parts of a tensor, variable or array of the variable's shape, by name."""
        if len(self.shapes) == 1:
            return dict.fromkeys(self.shapes, value)
        is_array = isinstance(value, np.ndarray)
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = np.split(value, np.cumsum(sizes)[:-1]) if is_array else tf.split(value, sizes)
        return {
            name: part.reshape(shape) if is_array else tf.reshape(part, shape)
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }

    def join(self, values: Mapping[str, Any]) -> tf.Tensor:
        """Joins tensors, arrays or variables to the variable's shape: undoes `split`."""
        own = [tf.convert_to_tensor(values[name]) for name in self.shapes]
        if len(own) == 1:
            return own[0]
        return tf.concat([tf.reshape(v, [-1]) for v in own], axis=0)


def portable_dtype(dtype: str) -> str:
    """Returns the dtype in which NumPy's files hold numbers of a dtype: they have no bfloat16."""
    return "uint16" if dtype == "bfloat16" else dtype


def portable(value: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(value, tf.uint16) if value.dtype == tf.bfloat16 else value


def as_dtype(value: Any, dtype: tf.DType) -> tf.Tensor:
    value = tf.convert_to_tensor(value)
    return tf.bitcast(value, dtype) if dtype == tf.bfloat16 != value.dtype else value


def packed(weights: Mapping[str, keras.Variable]) -> Stored:
    """Returns a new variable on the current device that holds several weights in a vector."""
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    values = [weight.numpy().reshape(-1) for weight in weights.values()]
    return Stored(tf.Variable(np.concatenate(values)), shapes)


def held_together(weights: Mapping[str, keras.Variable], small: Collection[str]) -> list[Stored]:
    """Returns a new variable on the current device that holds the small weights, by their size or
    by name, if there are several."""
    own = {
        name: weight
        for name, weight in weights.items()
        if weight.dtype == "float32" and (math.prod(weight.shape) < _SMALL or name in small)
    }
    return [packed(own)] if len(own) > 1 else []


def is_seed(variable: keras.Variable) -> bool:
    """Whether a variable is a Keras SeedGenerator's, int64 [2]: a seed and a count of calls."""
    return bool(variable.name == "seed_generator_state")


def checksum_of(model: keras.Model) -> int:
    """Returns the CRC-32 of the bits of all the model's variables except random seeds."""
    values = [v.value for v in variables_by_name(model).values() if not is_seed(v)]
    parts = (portable(tf.convert_to_tensor(value)) for value in values)
    return functools.reduce(lambda total, part: zlib.crc32(part, total), parts, 0)


def variables_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns every variable by its path, but a random seed by its layer's name and its place in
    the layer: a seed's path counts all seeds that the process has made."""
    named: dict[int, str] = {}
    for layer in [*model.layers, model]:
        seeds = [v for v in layer.variables if is_seed(v) and id(v) not in named]
        named |= {id(v): f"{layer.name}/{v.name}/{i}" for i, v in enumerate(seeds)}
    found: dict[str, keras.Variable] = {}
    for variable in [*model.trainable_variables, *model.non_trainable_variables]:
        name = named.get(id(variable), variable.path)
        if name in found:
            raise ValueError(
                f"two variables of the model {model.name!r} have the path {name!r}, by which their "
                "values are saved; give their layers different names"
            )
        found[name] = variable
    return found
