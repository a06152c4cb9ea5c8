"""Gradients of small weights that are sums over a batch's rows, in one kernel on a GPU.

A bias has such a gradient, and so has the kernel of a layer with one output. XLA makes a kernel of
each sum, which on a GPU takes longer to launch than to run.
"""

import functools
from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla

_MAX_TOGETHER = 8
"""Each takes 4 KB of a block's shared memory, of which a GPU has 48."""
_PASSED_THROUGH = ("Cast", "Identity", "Reshape")


def summed_together(gradients: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The same gradients, float32, in a program that XLA compiles; those that are sums of the
    columns of matrices are computed together.

    Args:
        gradients: by any name.
    """
    by_height: dict[int, dict[str, tf.Tensor]] = {}
    for name, gradient in gradients.items():
        if (matrix := _matrix_summed(gradient)) is not None:
            by_height.setdefault(matrix.shape[0], {})[name] = matrix
    found = dict(gradients)
    for matrices in by_height.values():
        names = list(matrices)
        for first in range(0, len(names), _MAX_TOGETHER):
            own = names[first : first + _MAX_TOGETHER]
            if len(own) > 1:
                sums = _column_sums([matrices[name] for name in own])
                for name, total in zip(own, sums, strict=True):
                    found[name] = tf.reshape(total, gradients[name].shape)
    return found


def _matrix_summed(gradient: tf.Tensor) -> tf.Tensor | None:
    """A matrix [rows, n] of whose columns a gradient of n elements is the sums; None where it is
    known of none."""
    if gradient.dtype != tf.float32 or not tf.is_symbolic_tensor(gradient):
        return None
    op = gradient.op
    while op.type in _PASSED_THROUGH:
        op = op.inputs[0].op
    matrix = None
    if op.type == "BiasAddGrad":
        matrix = op.inputs[0]
    elif op.type == "Sum":
        axes = tf.get_static_value(op.inputs[1])
        if axes is not None and list(axes.reshape(-1)) == [0]:
            matrix = op.inputs[0]
    elif op.type == "MatMul" and op.get_attr("transpose_a") and op.inputs[1].shape[-1] == 1:
        left, right = (tf.cast(operand, tf.float32) for operand in op.inputs)
        matrix = left * right
    if matrix is None or matrix.shape.rank != 2 or not matrix.shape.is_fully_defined():
        return None
    is_whole = matrix.shape[1] == gradient.shape.num_elements()
    return tf.cast(matrix, tf.float32) if is_whole else None


def _column_sums(matrices: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Of each matrix [rows, n] its column sums [n], by one reduction of many operands."""
    widths = [matrix.shape[1] for matrix in matrices]
    # The operands of a reduction have one shape. What is padded is not read from memory.
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
    """Adds the second half of its scalars to the first."""

    @tf.function(autograph=False)
    def add(*scalars: tf.Tensor) -> list[tf.Tensor]:
        return [scalars[i] + scalars[count + i] for i in range(count)]

    return add.get_concrete_function(*[tf.TensorSpec([], tf.float32)] * (2 * count))
