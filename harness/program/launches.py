"""Small layers by fewer kernels on a GPU, where a small kernel takes longer to launch than to run.

As sums in a loop of each thread, a product of small matrices is a part of the kernel that adds the
bias, and so is its gradient to the layer's inputs. One sum over the rows computes the gradients of
all small weights, of which XLA makes a kernel each. Without this file a GPU computes the same.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla
from tensorflow.compiler.xla import xla_data_pb2

_MAX_PRODUCT = 2**21  # multiplications in a small product, which take about as long as a launch
_MAX_TERMS = 128  # of the sums in a small product, which each thread adds up one after another
_CHUNK = 15  # The most terms of a sum that XLA computes within the kernel that reads it
_MAX_TOGETHER = 8  # gradients in one sum; for each number XLA looks which of them it belongs to
_MAX_PARTS = 31  # of a product, which XLA adds up within the kernel that reads the sum: the update
# The fewest and the most rows of a part; XLA divides products of more among more processors.
_PART_ROWS = (8, 256)
_MAX_RESULTS = 2**14  # elements of a product that is divided: each part has as many
_PASSED_THROUGH = ("Cast", "Identity", "Reshape")


def small_layers(model: keras.Model, rows: int) -> list[keras.layers.Dense]:
    """Returns the model's layers whose products of so many rows are small."""
    return [
        layer
        for layer in model._flatten_layers()
        if type(layer) is keras.layers.Dense
        and layer.built  # a subclass of Model need not call all of its layers
        and isinstance(layer.kernel, keras.Variable)  # LoRA and quantization compute it
        and "call" not in vars(layer)  # set by the user
        and layer.compute_dtype != "float64"
        and _is_small(rows, *layer.kernel.shape)
    ]


def _is_small(rows: int, *widths: int) -> bool:
    # A product of one column is no call of a library.
    return rows * math.prod(widths) <= _MAX_PRODUCT and 1 < min(widths) <= max(widths) <= _MAX_TERMS


@contextlib.contextmanager
def small_products(model: keras.Model, rows: int) -> Iterator[None]:
    """Makes small layers compute their products by sums in the block."""
    layers = small_layers(model, rows)
    for layer in layers:
        layer.call = functools.partial(_called, layer, rows)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def _called(
    layer: keras.layers.Dense, rows: int, inputs: tf.Tensor, training: bool | None = None
) -> Any:
    if inputs.shape != (rows, layer.kernel.shape[0]) or inputs.dtype != layer.compute_dtype:
        return keras.layers.Dense.call(layer, inputs, training=training)
    outputs = _small_product(inputs, tf.convert_to_tensor(layer.kernel))
    if layer.bias is not None:
        outputs += tf.convert_to_tensor(layer.bias)
    return outputs if layer.activation is None else layer.activation(outputs)


@tf.custom_gradient
def _small_product(left: tf.Tensor, right: tf.Tensor) -> Any:
    def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _sums(dy[:, None], right, axis=2), tf.matmul(left, dy, transpose_a=True)

    return _sums(left[:, :, None], right, axis=1), gradient


def _sums(left: tf.Tensor, right: tf.Tensor, *, axis: int) -> tf.Tensor:
    """Returns the sums of products along an axis of [rows, inputs, outputs], from factors that are
    broadcast to that shape; the sums are float32 inside."""
    size = left.shape[axis]
    length = math.ceil(size / math.ceil(size / _CHUNK))
    length += length in (2, 4, 8)  # which XLA would sum by a kernel of their own
    padding = [[0, 0], [0, 0], [0, 0]]
    padding[axis][1] = -size % length
    parts = [
        tf.split(tf.pad(tf.cast(factor, tf.float32), padding), math.ceil(size / length), axis)
        for factor in (left, right[None])
    ]
    sums = [tf.reduce_sum(a * b, axis=axis) for a, b in zip(*parts, strict=True)]
    return tf.cast(tf.add_n(sums), left.dtype)


def by_fewer_kernels(gradients: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the same float32 gradients, in a program that XLA compiles. Some that are sums
    over rows are added in another order, and 16-bit summands in float32."""
    found = dict(gradients)
    matrices: dict[int, dict[str, tf.Tensor]] = {}
    for name, gradient in gradients.items():
        op = _origin(gradient)
        if op is None:
            continue
        matrix = _summed(op)
        if matrix is not None and matrix.shape[1] == gradient.shape.num_elements():
            matrices.setdefault(matrix.shape[0], {})[name] = matrix
        elif (product := _divided(op)) is not None and product.shape == gradient.shape:
            found[name] = product
    for of_height in matrices.values():
        names = list(of_height)
        for first in range(0, len(names), _MAX_TOGETHER):
            own = {name: of_height[name] for name in names[first : first + _MAX_TOGETHER]}
            sums = tf.reduce_sum(_joined_by_pads(list(own.values())), axis=0)
            sizes = [matrix.shape[1] for matrix in own.values()]
            for name, total in zip(own, tf.split(sums, sizes), strict=True):
                found[name] = tf.reshape(total, gradients[name].shape)
    return found


def _origin(gradient: tf.Tensor) -> tf.Operation | None:
    """Returns the operation that computes a float32 gradient, before casts and reshapes; None for
    other dtypes, and outside of a program."""
    if gradient.dtype != tf.float32 or not tf.is_symbolic_tensor(gradient):
        return None
    op = gradient.op
    while op.type in _PASSED_THROUGH:
        op = op.inputs[0].op
    return op


def _is_product_over_rows(op: tf.Operation) -> bool:
    """Whether an operation multiplies left [rows, m], transposed, by right [rows, n]."""
    return (
        op.type == "MatMul"
        and op.get_attr("transpose_a")
        and not op.get_attr("transpose_b")
        and all(operand.shape.is_fully_defined() for operand in op.inputs)
    )


def _divided(op: tf.Operation) -> tf.Tensor | None:
    """Returns a product over rows as the sum of products over parts of the rows, float32; None if
    the operation is no product of many rows and few results."""
    if not _is_product_over_rows(op):
        return None
    left, right = op.inputs
    rows, num_results = left.shape[0], left.shape[1] * right.shape[1]
    fewest, most = _PART_ROWS
    possible = (n for n in range(2, _MAX_PARTS + 1) if rows % n == 0 and rows // n >= fewest)
    parts = max(possible, default=1)
    if parts == 1 or rows // parts > most:
        return None
    if right.shape[1] == 1 or num_results > _MAX_RESULTS:
        return None
    numbers = xla_data_pb2.DotDimensionNumbers(
        lhs_batch_dimensions=[0],
        rhs_batch_dimensions=[0],
        lhs_contracting_dimensions=[1],
        rhs_contracting_dimensions=[1],
    )
    operands = [tf.reshape(m, [parts, rows // parts, m.shape[1]]) for m in (left, right)]
    precision = xla_data_pb2.PrecisionConfig()  # the same as TensorFlow sets for the product
    if not tf.config.experimental.tensor_float_32_execution_enabled():
        precision.operand_precision.extend([xla_data_pb2.PrecisionConfig.HIGHEST] * 2)
    products = tf_xla.dot_general(
        *operands, numbers, precision_config=precision, preferred_element_type=tf.float32
    )
    return tf.reduce_sum(products, axis=0)


def _summed(op: tf.Operation) -> tf.Tensor | None:
    """Returns the matrix, float32 [rows, n], whose column sums an operation computes, if known."""
    matrix = None
    if op.type == "BiasAddGrad":
        matrix = op.inputs[0]
    elif op.type == "Sum":
        axes = tf.get_static_value(op.inputs[1])
        if axes is not None and list(axes.reshape(-1)) == [0]:
            matrix = op.inputs[0]
    elif _is_product_over_rows(op):
        left, right = (tf.cast(operand, tf.float32) for operand in op.inputs)
        if right.shape[1] == 1 or _is_small(*left.shape, right.shape[1]):
            matrix = tf.reshape(left[:, :, None] * right[:, None], [left.shape[0], -1])
    if matrix is None or matrix.shape.rank != 2 or not matrix.shape.is_fully_defined():
        return None
    return tf.cast(matrix, tf.float32)


def _joined_by_pads(matrices: Sequence[tf.Tensor]) -> tf.Tensor:
    """Joins matrices side by side, unlike `tf.concat` within the kernel that reads the result."""
    ends = list(itertools.accumulate(matrix.shape[1] for matrix in matrices))
    return tf.add_n(
        [
            tf.pad(matrix, [[0, 0], [end - matrix.shape[1], ends[-1] - end]])
            for matrix, end in zip(matrices, ends, strict=True)
        ]
    )
