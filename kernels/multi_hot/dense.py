"""`dense`: the multi-hot matrix on the device, then a matmul.

Serves small batches on tensor cores, and models that need the matrix itself. O(B V) memory.
Shapes: B rows, V num_tokens, H units, N values.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kernels.multi_hot.problem import Problem
from kernels.multi_hot.segments import find_entries, poison

Tensor = Any


# Low-precision operands with float32 sums: TensorFlow has this matmul only under XLA, so it is
# compiled wherever it is called from.
@tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
def _matmul_float32(a: Tensor, b: Tensor, *, transpose_a: bool) -> Tensor:
    return tf.raw_ops.BatchMatMulV3(x=a, y=b, Tout=tf.float32, adj_x=transpose_a)


def index(problem: Problem) -> Tensor:
    """Return the multi-hot matrix [B, V] in the table's dtype."""
    # Writing a 1 twice is writing it once, so repeated ids need no search here.
    entries = find_entries(problem, drop_repeated=False)
    counts = entries.rows < entries.num_rows
    cells = tf.stack([tf.where(counts, entries.rows, 0), entries.ids], axis=1)
    # Entries that do not count raise the first cell to 0. A batch without rows has no such cell,
    # hence at least one row here.
    shape = [tf.maximum(entries.num_rows, 1), problem.num_tokens]
    empty = poison(tf.zeros(shape, problem.dtype), entries.valid)
    filled = tf.tensor_scatter_nd_max(empty, cells, tf.cast(counts, problem.dtype))
    splits_length = problem.row_splits.shape[0]
    return tf.ensure_shape(
        filled[: entries.num_rows],
        [splits_length and splits_length - 1, problem.num_tokens],
    )


def forward(table: Tensor, matrix: Tensor) -> Tensor:
    """Return [B, H] in the table's dtype, accumulated in float32."""
    return tf.cast(_matmul_float32(matrix, table, transpose_a=False), table.dtype)


def backward(dy: Tensor, matrix: Tensor) -> Tensor:
    """Return the table's gradient [V, H] in dy's dtype, accumulated in float32."""
    return tf.cast(_matmul_float32(matrix, dy, transpose_a=True), dy.dtype)
