"""The native kernels as an implementation: custom calls inside the compiled program.

Shapes: B rows, V num_tokens, H units, N values; R resident rows, M their ids, C a batch's capacity.
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from kernels.multi_hot.native.call import custom_call, prepared
from kernels.multi_hot.native.library import load
from kernels.multi_hot.native.table import row_gradients, touch
from kernels.multi_hot.registry import Problem, Product

Tensor = Any

_MAX_CHUNKS = 8
_INDEX_SLACK = 8
"""TransposedIndex::kSlack. The kernel checks this constant and the next."""
_MAX_CHUNK_ROWS = 2**16


# The kernels are float32's: 16 bits save a CPU hardly any time.
def _forward(table: Tensor, problem: Problem) -> Tensor:
    y = tf.TensorSpec([problem.row_splits.shape[0] - 1, table.shape[1]], tf.float32)
    operands = [tf.cast(table, tf.float32), problem.values, problem.row_splits]
    if problem.weights is not None:
        operands.append(problem.weights)
        (sums,) = custom_call("multi_hot_weighted_forward", operands, [y])
    else:
        (sums,) = custom_call("multi_hot_forward", operands, [y], unique=problem.unique)
    return tf.cast(sums, table.dtype)


def _backward(dy: Tensor, problem: Problem) -> Tensor:
    V, N = problem.num_tokens, problem.values.shape[0]
    # Counting in parallel costs V per chunk, so it has to have some values to count.
    num_chunks = max(1, min(_MAX_CHUNKS, os.cpu_count() or 1, N // V))
    num_chunks = max(num_chunks, -(-dy.shape[0] // _MAX_CHUNK_ROWS))
    dw = tf.TensorSpec([V, dy.shape[1]], tf.float32)
    index = [
        tf.TensorSpec([num_chunks, V], tf.int32),
        tf.TensorSpec([N + _INDEX_SLACK], tf.uint16),
    ]
    operands = [tf.cast(dy, tf.float32), problem.values, problem.row_splits]
    if problem.weights is not None:
        operands.append(problem.weights)
        index.append(tf.TensorSpec([N], tf.float32))
        (sums,) = custom_call("multi_hot_weighted_backward", operands, [dw], index)
    else:
        (sums,) = custom_call("multi_hot_backward", operands, [dw], index, unique=problem.unique)
    return tf.cast(sums, dy.dtype)


def take_rows(
    values: Tensor,
    row_splits: Tensor,
    rows: Tensor,
    *,
    capacity: int,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Copy one batch from resident sets, inside a compiled program on a CPU.

    Args:
      values: [M] uint16 or uint32 token ids, below 2^31; of a static shape.
      row_splits: [R + 1] int32 or int64, of a static shape.
      rows: [B] int32 in [0, R), of a static shape.
      capacity: C, the static length of the batch's values.
      weights: [M] float32, of the ids.

    Returns:
      values [C] int32: the rows' ids one after another, then zeros; row_splits [B + 1] int32; and
      weights [C] float32 likewise, None where the sets have none.

    Raises:
      NativeUnavailableError: the kernels cannot be built or loaded here.
      tf.errors.InvalidArgumentError: a row that does not exist, or more ids than C.
    """
    load()
    results = [tf.TensorSpec([capacity], tf.int32), tf.TensorSpec([rows.shape[0] + 1], tf.int32)]
    operands = [values, tf.cast(row_splits, tf.int64), rows]
    if weights is None:
        taken, splits = custom_call("multi_hot_take_rows", operands, results)
        return taken, splits, None
    operands.append(weights)
    results.append(tf.TensorSpec([capacity], tf.float32))
    taken, splits, own = custom_call("multi_hot_take_weighted_rows", operands, results)
    return taken, splits, own


PRODUCT = Product(
    index=prepared,
    forward=_forward,
    backward=_backward,
    touch=touch,
    row_gradients=row_gradients,
    device_types=("CPU",),
    takes_rowids=False,
    prepare=lambda: load().name,
)
