"""Gradients of small weights by fewer kernels on a GPU, where a small kernel takes longer to launch
than to run.

These gradients are sums over a batch's rows. A bias has the column sums of a matrix as its
gradient, and so has the kernel of a layer with one output; XLA makes a kernel of each. It divides a
product of many rows and few results among processors, which takes one kernel to pad the rows and
another to add the processors' results.
"""

import functools
from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla
from tensorflow.compiler.xla import xla_data_pb2

# The most column sums in one kernel. Each takes 4 KB of a block's shared memory, 48 KB in all.
_MAX_TOGETHER = 8
# The most parts of a product. XLA adds up so few within the kernel that reads their sum, which is
# the update.
_MAX_PARTS = 31
# The fewest and the most rows of a part. Fewer would hardly be a product; products of more are left
# to XLA, which divides them among more processors.
_PART_ROWS = (8, 256)
# The most elements of a product that is divided: each part has as many.
_MAX_RESULTS = 2**14
_PASSED_THROUGH = ("Cast", "Identity", "Reshape")


def by_fewer_kernels(gradients: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the same float32 gradients, in a program that XLA compiles. Some that are sums
    over rows are added in another order, and 16-bit summands in float32."""
    found = dict(gradients)
    matrices: dict[int, dict[str, tf.Tensor]] = {}
    for name, gradient in gradients.items():
        op = _origin(gradient)
        if op is None:
            continue
        if (product := _divided(op)) is not None and product.shape == gradient.shape:
            found[name] = product
        matrix = _summed(op)
        if matrix is not None and matrix.shape[1] == gradient.shape.num_elements():
            matrices.setdefault(matrix.shape[0], {})[name] = matrix
    for of_height in matrices.values():
        names = list(of_height)
        for first in range(0, len(names), _MAX_TOGETHER):
            own = names[first : first + _MAX_TOGETHER]
            if len(own) > 1:
                sums = _column_sums([of_height[name] for name in own])
                for name, total in zip(own, sums, strict=True):
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
    """Returns the matrix [rows, n], in float32, whose column sums an operation computes; None if no
    such matrix is known."""
    matrix = None
    if op.type == "BiasAddGrad":
        matrix = op.inputs[0]
    elif op.type == "Sum":
        axes = tf.get_static_value(op.inputs[1])
        if axes is not None and list(axes.reshape(-1)) == [0]:
            matrix = op.inputs[0]
    elif _is_product_over_rows(op) and op.inputs[1].shape[1] == 1:
        left, right = (tf.cast(operand, tf.float32) for operand in op.inputs)
        matrix = left * right
    if matrix is None or matrix.shape.rank != 2 or not matrix.shape.is_fully_defined():
        return None
    return tf.cast(matrix, tf.float32)


def _column_sums(matrices: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the column sums [n] of each matrix [rows, n], by one reduction of many operands."""
    widths = [matrix.shape[1] for matrix in matrices]
    # The operands of a reduction have the same shape. The padding is not read from memory.
    padded = [
        tf.pad(matrix, [[0, 0], [0, max(widths) - width]])
        for matrix, width in zip(matrices, widths, strict=True)
    ]
    sums = tf_xla.variadic_reduce(
        padded,
        [tf.constant(0.0)] * len(padded),
        dimensions_to_reduce=[0],
        reducer=_adder(len(padded)),
    )
    return [own[:width] for own, width in zip(sums, widths, strict=True)]


@functools.cache
def _adder(count: int) -> tf.types.experimental.ConcreteFunction:
    """Returns a function that adds the second half of its scalars to the first."""

    @tf.function(autograph=False)
    def add(*scalars: tf.Tensor) -> list[tf.Tensor]:
        return [scalars[i] + scalars[count + i] for i in range(count)]

    return add.get_concrete_function(*[tf.TensorSpec([], tf.float32)] * (2 * count))
