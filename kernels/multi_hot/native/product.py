"""The native kernels as an implementation: `index`, `forward` and `backward` by custom calls.

Shapes: B rows, V num_tokens, H units, N values.
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from kernels.multi_hot.native.custom_call import custom_call
from kernels.multi_hot.native.library import load
from kernels.multi_hot.problem import Problem

Tensor = Any

_MAX_CHUNKS = 8
_INDEX_SLACK = 8
"""TransposedIndex::kSlack, which the kernel checks, and so it does the next."""
_MAX_CHUNK_ROWS = 2**16


def index(problem: Problem) -> Problem:
    """Return the sets as they are; the kernels build what they need from them.

    Raises:
      NativeUnavailableError: the kernels cannot be built or loaded here.
      ValueError: sizes that are not static.
    """
    for name, vector in (("values", problem.values), ("row_splits", problem.row_splits)):
        if vector.shape[0] is None:
            raise ValueError(
                f"the native kernels need static shapes, and the length of {name} is unknown: "
                "trace the function with its real shape, or use the implementation 'gather'"
            )
    load()
    return problem


def forward(table: Tensor, problem: Problem) -> Tensor:
    """Return [B, H] in the table's dtype, accumulated in float32."""
    shape = [problem.row_splits.shape[0] - 1, table.shape[1]]
    results = (tf.TensorSpec(shape, table.dtype),)
    return _call("multi_hot_forward", table, problem, results, {"unique": problem.unique})


def backward(dy: Tensor, problem: Problem) -> Tensor:
    """Return the table's gradient [V, H] in dy's dtype, accumulated in float32."""
    V, N = problem.num_tokens, problem.values.shape[0]
    # Counting in parallel costs V per chunk, so it has to have some values to count.
    num_chunks = max(1, min(_MAX_CHUNKS, os.cpu_count() or 1, N // V))
    num_chunks = max(num_chunks, -(-dy.shape[0] // _MAX_CHUNK_ROWS))
    if problem.halves:
        num_chunks += num_chunks % 2
    results = (
        tf.TensorSpec([V, dy.shape[1]], dy.dtype),
        tf.TensorSpec([num_chunks, V], tf.int32),
        tf.TensorSpec([N + _INDEX_SLACK], tf.uint16),
    )
    config = {"unique": problem.unique, "halves": problem.halves}
    return _call("multi_hot_backward", dy, problem, results, config)


def _call(
    target: str,
    operand: Tensor,
    problem: Problem,
    results: tuple[Any, ...],
    config: dict[str, bool],
) -> Tensor:
    """Return the first of the custom call's results; the others are workspace that XLA plans."""
    (result,) = custom_call(
        target,
        (operand, problem.values, problem.row_splits),
        results,
        config=", ".join(f"{name} = {str(value).lower()}" for name, value in config.items()),
        num_returned=1,
    )
    return result
