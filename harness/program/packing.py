"""Variables that hold one weight or several small ones, which have names.

A network has many small weights, and each weight's update is a kernel, which on a GPU takes longer
to launch than to run. Weights in one variable need only one kernel.
"""

import functools
import itertools
import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Elements below which weights are packed into a vector. Larger weights would have to be copied out
# of it before a matrix product, which costs as much as an update of their own.
_SMALL = 1024
# Elements below which matrices of one shape are stacked, if products convert them to 16 bits.
_STACKED = 2**16


@dataclass(frozen=True)
class Stored:
    """A variable, and the names and shapes of the tensors that it holds: one of the variable's own
    shape, several concatenated to a vector, or several of one shape stacked along a first axis."""

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
        if len(self.variable.shape) > 1:
            parts = value if is_array else tf.unstack(value)
        else:
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
        if len(self.variable.shape) > 1:
            if tf.executing_eagerly():
                return tf.stack(own)
            return joined_by_pads([part[None] for part in own], axis=0)
        return tf.concat([tf.reshape(v, [-1]) for v in own], axis=0)


def joined_by_pads(parts: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
    """Concatenates tensors, unlike `tf.concat` within the kernel that reads the result."""
    ends = list(itertools.accumulate(part.shape[axis] for part in parts))
    none = [[0, 0]] * parts[0].shape.rank
    pads = [
        [*none[:axis], [end - part.shape[axis], ends[-1] - end], *none[axis + 1 :]]
        for part, end in zip(parts, ends, strict=True)
    ]
    return tf.add_n([tf.pad(part, pad) for part, pad in zip(parts, pads, strict=True)])


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


def held_together(
    weights: Mapping[str, keras.Variable], *, stack: bool, small: Collection[str] = ()
) -> list[Stored]:
    """Returns new variables on the current device, each of which holds several of the weights: one
    vector of the small weights, and with `stack` also stacks of matrices of the same shape that are
    not large, so that one kernel converts a stack and one updates it. A weight that would be alone
    in its variable is left out."""
    together: dict[str, keras.Variable] = {}
    by_shape: dict[tuple[int, ...], dict[str, keras.Variable]] = {}
    for name, weight in weights.items():
        shape = tuple(weight.shape)
        if weight.dtype != "float32":
            continue
        if math.prod(shape) < _SMALL or name in small:
            together[name] = weight
        elif stack and len(shape) == 2 and math.prod(shape) < _STACKED:
            by_shape.setdefault(shape, {})[name] = weight
    found = [
        Stored(tf.Variable(np.stack([w.numpy() for w in own.values()])), dict.fromkeys(own, shape))
        for shape, own in by_shape.items()
        if len(own) > 1
    ]
    return [*found, packed(together)] if len(together) > 1 else found


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
