"""Tests whether numbers are finite; on a GPU, one kernel tests all gradients.

To test each gradient by itself takes a kernel or two for each. Besides, XLA then computes a
gradient beforehand, for the test and the update, instead of within the update's kernel.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla

_ROWS_AT_ONCE = 2**16
# Parts that the kernel tests separately. XLA combines so few answers in the kernel that reads them.
_PARTS = 31
# The longest part that XLA leaves whole.
_PART_SHAPE = (8, 2**14)


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


def all_finite(tensors: Iterable[tf.Tensor]) -> tf.Tensor:
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


def all_finite_by_one_kernel(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Does the same as `all_finite`, for tensors of static shapes in a GPU's program."""
    found = [origin for tensor in tensors for origin in _origins(tensor)]
    if not any(tensor.shape.num_elements() for tensor in found):
        return tf.constant(True)
    finite = tf.concat([tf.reshape(tf.math.is_finite(tensor), [-1]) for tensor in found], axis=0)
    size = finite.shape[0]
    columns = math.ceil(size / _PARTS)
    deep = math.ceil(columns / _PART_SHAPE[1])
    if deep > _PART_SHAPE[0]:
        return tf.reduce_all(finite)
    shape = [deep, _PARTS, math.ceil(columns / deep)]
    padded = tf.pad(finite, [[0, math.prod(shape) - size]], constant_values=True)
    parts = tf.reduce_all(tf.reshape(padded, shape), axis=[0, 2])
    # Not `reduce_all` again: XLA would merge the two and split the result in its own way.
    return tf.reduce_min(tf.cast(parts, tf.float32)) > 0


def _origins(tensor: tf.Tensor) -> list[tf.Tensor]:
    """Returns tensors that XLA computes in any case, all finite if and only if the given one is."""
    if not tf.is_symbolic_tensor(tensor):
        return [tensor]
    op = tensor.op
    if op.type in ("Identity", "Reshape", "ExpandDims", "StridedSlice", "Cast"):
        source = op.inputs[0]
        is_whole = source.shape.num_elements() == tensor.shape.num_elements()
        widens = source.dtype == tensor.dtype or source.dtype == tf.float16
        return _origins(source) if is_whole and widens else [tensor]
    if op.type == "ConcatV2":
        return [origin for part in op.inputs[:-1] for origin in _origins(part)]
    if op.type == "AddN" and _is_stack(op):
        return [origin for part in op.inputs for origin in _origins(part.op.inputs[0])]
    if op.type == "Sum" and op.inputs[0].op.type == "XlaDotV2":
        products = op.inputs[0]
        # Far from float32's limit, so that no sum of them exceeds it.
        if products.op.inputs[0].dtype == tf.float16 and products.dtype == tf.float32:
            return [products]
    return [tensor]


def _is_stack(addition: tf.Operation) -> bool:
    """Whether a sum concatenates tensors along the first axis, as `Stored.join` does."""
    if any(part.op.type != "Pad" for part in addition.inputs):
        return False
    paddings = [tf.get_static_value(part.op.inputs[1]) for part in addition.inputs]
    if any(padding is None for padding in paddings):
        return False
    height = addition.inputs[0].shape[0]
    ends = sorted((before, height - after) for (before, after), *_ in paddings)
    return all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ends))
