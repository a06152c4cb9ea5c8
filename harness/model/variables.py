"""The variables of a model by name, and their values: in files, as checksums, in pieces."""

import functools
import hashlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla

_ROWS_AT_ONCE = 2**16


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
    seeds: list[tuple[keras.Variable, str]] = []
    for layer in [*model.layers, model]:
        own = [v for v in layer.variables if is_seed(v) and not any(v is s for s, _ in seeds)]
        seeds += [(v, f"{layer.name}/{v.name}/{place}") for place, v in enumerate(own)]
    found: dict[str, keras.Variable] = {}
    for variable in [*model.trainable_variables, *model.non_trainable_variables]:
        name = next((name for seed, name in seeds if seed is variable), variable.path)
        if name in found:
            raise ValueError(
                f"two variables of the model {model.name!r} have the path {name!r}, by which their "
                "values are saved; give their layers different names"
            )
        found[name] = variable
    return found


def portable_dtype(dtype: str) -> str:
    """Returns the dtype in which NumPy's files hold numbers of a dtype: they have no bfloat16."""
    return "uint16" if dtype == "bfloat16" else dtype


def portable(value: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(value, tf.uint16) if value.dtype == tf.bfloat16 else value


def as_dtype(value: Any, dtype: tf.DType) -> tf.Tensor:
    value = tf.convert_to_tensor(value)
    return tf.bitcast(value, dtype) if dtype == tf.bfloat16 != value.dtype else value


def digest_of(variable: tf.Variable) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    for block in blocks(variable):
        digest.update(portable(block).numpy().tobytes())
    return digest.digest()


def blocks(variable: tf.Variable) -> Iterator[tf.Tensor]:
    """Yields the variable's rows in blocks, so that a large table is not copied as a whole."""
    value = tf.convert_to_tensor(variable)
    if value.shape.rank != 2:
        yield value
        return
    for first in range(0, value.shape[0], _ROWS_AT_ONCE):
        yield value[first : first + _ROWS_AT_ONCE]


def change_by_blocks(variable: tf.Variable, change: Callable[[tf.Tensor], tf.Tensor]) -> None:
    """Replaces the variable's rows, in blocks and in their places, by what `change` makes of them.
    It must return no part of what it gets, whose memory is the variable's: TensorFlow would copy
    the whole table before it changes a row."""
    if variable.shape.rank != 2 or variable.shape[0] <= _ROWS_AT_ONCE:
        variable.assign(change(tf.convert_to_tensor(variable)))
        return
    for first in range(0, variable.shape[0], _ROWS_AT_ONCE):
        changed = change(tf.convert_to_tensor(variable)[first : first + _ROWS_AT_ONCE])
        with tf.device(variable.device):
            _put(variable, changed, tf.constant([first, 0]))


# TensorFlow's own slice assignment would make each later read of the variable a copy of it.
@tf.function(jit_compile=True, autograph=False)
def _put(variable: tf.Variable, rows: tf.Tensor, place: tf.Tensor) -> None:
    found = tf_xla.dynamic_update_slice(variable.read_value(), rows, place)
    variable.assign(found)
