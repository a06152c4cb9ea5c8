"""`dense`: the multi-hot matrix on the device, then a matmul.

Serves small batches on tensor cores, and models that need the matrix itself. O(B V) memory.
Shapes: B rows, V num_tokens, H units, N values.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kernels.multi_hot.registry import Problem, Product
from kernels.multi_hot.segments import Entries, find_entries, for_sums, poison

Tensor = Any

_MAX_MATRIX_ELEMENTS = 2**27
"""Limit of the matrix for `auto`: half a GiB of float32."""


# TensorFlow has a matmul of 16-bit operands with float32 sums only under XLA, so this is compiled
# wherever it is called from.
@tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
def _matmul(a: Tensor, b: Tensor, *, transpose_a: bool) -> Tensor:
    return tf.raw_ops.BatchMatMulV3(x=a, y=b, Tout=for_sums(a).dtype, adj_x=transpose_a)


# XLA drops elements scattered outside the matrix; TensorFlow's own kernel refuses them.
@tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
def _scatter_max(matrix: Tensor, cells: Tensor, elements: Tensor) -> Tensor:
    return tf.tensor_scatter_nd_max(matrix, cells, elements)


# Compiled as above, so that rows from B on are dropped.
@tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
def _scatter_add(matrix: Tensor, cells: Tensor, elements: Tensor) -> Tensor:
    return tf.tensor_scatter_nd_add(matrix, cells, elements)


def index(problem: Problem) -> Tensor:
    """Return the multi-hot matrix [B, V] in the table's dtype; with weights, in the dtype of the
    sums, since rounding weights would round twice."""
    if problem.weights is not None:
        return _weighted_index(problem)
    # Writing a 1 twice is writing it once, so repeated ids need no search here.
    entries = find_entries(problem, drop_repeated=False)
    V, ones = problem.num_tokens, tf.ones_like(entries.ids, problem.dtype)
    if entries.rows_given:
        # Row B is outside the matrix, so entries behind the last row are dropped.
        cells = tf.stack([entries.rows, entries.ids], axis=1)
        empty = tf.zeros([entries.num_rows, V], problem.dtype)
        # Infinity, not NaN, which XLA's maximum on a CPU drops; `forward` turns it into NaN.
        return _scatter_max(empty, cells, tf.where(entries.valid, ones, float("inf")))
    cells = tf.stack([tf.where(entries.counts, entries.rows, 0), entries.ids], axis=1)
    # Entries that do not count raise the first cell to 0. Even for a batch without rows, the matrix
    # has at least one row, so that there is such a cell.
    empty = poison(tf.zeros([tf.maximum(entries.num_rows, 1), V], problem.dtype), entries.valid)
    filled = tf.tensor_scatter_nd_max(empty, cells, tf.cast(entries.counts, problem.dtype))
    return _with_rows(filled, problem, entries)


def _weighted_index(problem: Problem) -> Tensor:
    entries = find_entries(problem, drop_repeated=False)
    V, weights = problem.num_tokens, for_sums(entries.weights)
    if entries.rows_given:
        cells = tf.stack([entries.rows, entries.ids], axis=1)
        empty = tf.zeros([entries.num_rows, V], weights.dtype)
        return _scatter_add(empty, cells, poison(weights, entries.valid))
    cells = tf.stack([tf.where(entries.counts, entries.rows, 0), entries.ids], axis=1)
    empty = poison(tf.zeros([tf.maximum(entries.num_rows, 1), V], weights.dtype), entries.valid)
    filled = tf.tensor_scatter_nd_add(empty, cells, tf.where(entries.counts, weights, 0.0))
    return _with_rows(filled, problem, entries)


def _with_rows(matrix: Tensor, problem: Problem, entries: Entries) -> Tensor:
    """Return the batch's rows of a matrix, which has one row if the batch has none."""
    splits_length = problem.row_splits.shape[0]
    shape = [splits_length and splits_length - 1, problem.num_tokens]
    return tf.ensure_shape(matrix[: entries.num_rows], shape)


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
    deterministic_on_gpu=True,
    fits=lambda num_rows, num_tokens: num_rows * num_tokens <= _MAX_MATRIX_ELEMENTS,
)
