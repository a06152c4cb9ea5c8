"""Segment arithmetic that `dense` and `gather` share: which row each position is in, what counts.

Shapes: B rows, V num_tokens, N values (capacity; nnz = row_splits[-1] of them count).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla

from kernels.multi_hot.problem import Problem

Tensor = Any

_INT32_MAX = 2**31 - 1


class Entries(NamedTuple):
    """The positions of a batch's `values` buffer.

    An entry that must not count (behind `row_splits[-1]`, or a repeated id) has row B.
    """

    ids: Tensor  # [N] int32 in [0, V), 0 where the entry does not count
    rows: Tensor  # [N] int32 in [0, B]
    num_rows: Any  # B, a scalar tensor where it is not static
    num_tokens: int  # V
    valid: Tensor  # scalar bool: False when splits or ids break the contract


def find_entries(problem: Problem, *, drop_repeated: bool) -> Entries:
    """Return the row of each value, checked.

    With `drop_repeated`, an id that a row holds twice counts once, and the entries are in
    (row, id) order instead of the buffer's.

    Raises:
      tf.errors.InvalidArgumentError: wrong splits or ids, outside XLA. Compiled programs cannot
        raise (XLA drops assertions); there `valid` is False.
    """
    values, row_splits = problem.values, problem.row_splits
    num_values, num_rows = _length(values), _length(row_splits) - 1
    counts = tf.range(num_values, dtype=row_splits.dtype) < row_splits[-1]
    in_range = (values >= 0) & (values < problem.num_tokens)
    splits_valid = (
        (row_splits[0] == 0)
        & tf.reduce_all(row_splits[1:] >= row_splits[:-1])
        & (row_splits[-1] <= tf.cast(num_values, row_splits.dtype))
    )
    ids_valid = tf.reduce_all(in_range | ~counts)
    rows = _rows_of_positions(row_splits, num_values)
    _assert_valid(problem, splits_valid, ids_valid, rows, counts & ~in_range)
    ids = tf.where(counts & in_range, values, 0)
    if drop_repeated:
        ids, rows = _drop_repeated(ids, rows, num_rows, problem.num_tokens)
    return Entries(ids, rows, num_rows, problem.num_tokens, splits_valid & ids_valid)


def poison(tensor: Tensor, valid: Tensor) -> Tensor:
    """Return `tensor`, or NaN everywhere if not `valid`: wrong input must not pass as a result."""
    return tf.where(valid, tensor, tf.constant(float("nan"), tensor.dtype))


def _length(vector: Tensor) -> Any:
    static = vector.shape[0]
    return tf.shape(vector)[0] if static is None else static


def _assert_valid(
    problem: Problem, splits_valid: Tensor, ids_valid: Tensor, rows: Tensor, wrong: Tensor
) -> None:
    num_values = _length(problem.values)
    # One more element, so that there is a first wrong one to name in any case. tf.gather, since
    # XLA's compiler spends seconds evaluating the bounds of a slice that depends on the data.
    first = tf.argmax(tf.concat([wrong, [True]], 0))
    row, token_id = (
        tf.gather(tf.concat([vector, [0]], 0), first) for vector in (rows, problem.values)
    )
    _assert(
        splits_valid,
        "row_splits must start at 0, never decrease and end at or before the number of values,",
        *(num_values, "; got", problem.row_splits),
    )
    _assert(
        ids_valid,
        *("row", row, "holds token id", token_id),
        f"but ids must be in [0, {problem.num_tokens})",
    )


def _assert(condition: Tensor, *message: Any) -> None:
    """Raise InvalidArgumentError unless `condition`: now when eager, in a graph when it runs."""
    if not tf.executing_eagerly():
        tf.debugging.Assert(condition, list(message), summarize=20)
    elif not condition:
        words = (str(part.numpy()) if tf.is_tensor(part) else str(part) for part in message)
        raise tf.errors.InvalidArgumentError(None, None, " ".join(words))


def _rows_of_positions(row_splits: Tensor, num_values: Any) -> Tensor:
    """Return [N] int32: for each position the number of rows that end at or before it.

    One scatter over the rows and a cumulative sum: tf.searchsorted compares every position with
    every split under XLA, 25 times slower at 500 rows.
    """
    limit = tf.cast(num_values, row_splits.dtype)
    ends = tf.cast(tf.clip_by_value(row_splits[1:], 0, limit), tf.int32)
    ends_at = tf.math.unsorted_segment_sum(tf.ones_like(ends), ends, num_values + 1)
    return tf.cumsum(ends_at)[:num_values]


# tf.sort sorts (value, position) pairs, four times slower than XLA's sort of values alone, which
# exists only in compiled functions; so this is compiled wherever it is called from.
@tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
def _sort(keys: Tensor) -> Tensor:
    return tf_xla.sort(keys)


def _drop_repeated(
    ids: Tensor, rows: Tensor, num_rows: Any, num_tokens: int
) -> tuple[Tensor, Tensor]:
    """Return the entries in (row, id) order, all but one of each equal pair moved to row B.

    Sums do not depend on the order, so nothing is carried back to the old positions, and sorting
    the keys alone is enough: O(N log N) time, O(N) memory.
    """
    small = isinstance(num_rows, int) and (num_rows + 1) * num_tokens <= _INT32_MAX
    key_dtype = tf.int32 if small else tf.int64
    keys = _sort(tf.cast(rows, key_dtype) * num_tokens + tf.cast(ids, key_dtype))
    sorted_rows = keys // num_tokens
    sorted_ids = tf.cast(keys - sorted_rows * num_tokens, tf.int32)
    repeated = tf.concat([tf.zeros_like(keys[:1], tf.bool), keys[1:] == keys[:-1]], axis=0)
    return (
        tf.where(repeated, 0, sorted_ids),
        tf.where(repeated, num_rows, tf.cast(sorted_rows, tf.int32)),
    )
