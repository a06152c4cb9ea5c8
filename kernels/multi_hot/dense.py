"""`dense`: the multi-hot matrix on the device, then a matmul.

Serves small batches on tensor cores, and models that need the matrix itself. O(B V) memory.
Shapes: B rows, V num_tokens, H units, N values.
"""

import tensorflow as tf

from kernels.multi_hot.registry import Problem, Product, Tensor
from kernels.multi_hot.segments import find_entries, for_sums, poison
from kernels.multi_hot.table_rules import row_gradients, touch, update

# Limit of the matrix for `auto`: half a GiB of float32.
_MAX_MATRIX_ELEMENTS = 2**27


# TensorFlow has a matmul of 16-bit operands with float32 sums only under XLA, so this is compiled
# wherever it is called from.
@tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
def _matmul(a: Tensor, b: Tensor, *, transpose_a: bool) -> Tensor:
    return tf.raw_ops.BatchMatMulV3(x=a, y=b, Tout=for_sums(a).dtype, adj_x=transpose_a)


# XLA drops elements scattered outside the matrix, those of row B here; TensorFlow's own kernels
# refuse them.
@tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
def _scatter(matrix: Tensor, cells: Tensor, elements: Tensor, *, add: bool) -> Tensor:
    scatter = tf.tensor_scatter_nd_add if add else tf.tensor_scatter_nd_max
    return scatter(matrix, cells, elements)


def index(problem: Problem) -> Tensor:
    """Return the multi-hot matrix [B, V] in the table's dtype, or of the sums if weighted."""
    entries = find_entries(problem, drop_repeated=False)
    V, add = problem.num_tokens, entries.weights is not None
    # Without weights, writing a 1 twice is writing it once: repeated ids need no search.
    ones = tf.ones_like(entries.ids, problem.dtype)
    elements = ones if entries.weights is None else for_sums(entries.weights)
    if entries.rows_given:
        cells = tf.stack([entries.rows, entries.ids], axis=1)
        # XLA's maximum on a CPU drops NaN; `forward` makes NaN of infinity.
        wrong = tf.constant(float("nan" if add else "inf"), elements.dtype)
        empty = tf.zeros([entries.num_rows, V], elements.dtype)
        return _scatter(empty, cells, tf.where(entries.valid, elements, wrong), add=add)
    # Entries that do not count leave the first cell as it is. Even for a batch without rows, the
    # matrix has at least one row, so that there is such a cell.
    cells = tf.stack([tf.where(entries.counts, entries.rows, 0), entries.ids], axis=1)
    elements = tf.where(entries.counts, elements, tf.zeros([], elements.dtype))
    empty = tf.zeros([tf.maximum(entries.num_rows, 1), V], elements.dtype)
    scatter = tf.tensor_scatter_nd_add if add else tf.tensor_scatter_nd_max
    filled = scatter(poison(empty, entries.valid), cells, elements)
    splits_length = problem.row_splits.shape[0]
    return tf.ensure_shape(filled[: entries.num_rows], [splits_length and splits_length - 1, V])


def _forward(table: Tensor, matrix: Tensor) -> Tensor:
    sums = _matmul(matrix, tf.cast(table, matrix.dtype), transpose_a=False)
    return poison(sums, tf.math.is_finite(sums))


def _backward(dy: Tensor, matrix: Tensor) -> Tensor:
    sums = _matmul(matrix, tf.cast(dy, matrix.dtype), transpose_a=True)
    return tf.cast(sums, dy.dtype)


PRODUCT = Product(
    index=index,
    forward=_forward,
    backward=_backward,
    touch=touch,
    row_gradients=row_gradients,
    update=update,
    deterministic_on_gpu=True,
    fits=lambda num_rows, num_tokens: num_rows * num_tokens <= _MAX_MATRIX_ELEMENTS,
)
