"""Segment arithmetic of `dense` and `gather`: the row of each position, which ones count, and sums
over those of an id.

Shapes: B rows, V num_tokens, N values (capacity; nnz = row_splits[-1] of them count); L batches
read from R resident rows of M ids.
"""

from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla

from kernels.multi_hot.registry import Problem, Tensor

_INT32_MAX = 2**31 - 1
# Number of a segment that is not summed. If padding had a segment of its own, a GPU would add all
# padding entries to one place, one after another.
DROPPED = -1


class Entries(NamedTuple):
    """The positions of a batch's `values` buffer."""

    ids: Tensor  # [N] int32 in [0, V)
    rows: Tensor  # [N] int32 in [0, B]; B behind the last row
    counts: Tensor  # [N] bool: False behind the last row and for a repeated id without weights
    num_rows: Any  # B, a scalar tensor where it is not static
    num_tokens: int  # V
    valid: Tensor  # False where the contract is broken: bool scalar, or [N] if `rows_given`
    rows_given: bool  # whether the rows came with the ids, which only compiled programs take
    weights: Tensor | None  # [N] float32; anything where the entry does not count


def find_entries(problem: Problem, *, drop_repeated: bool) -> Entries:
    """Return the checked entries of a batch, with the row of each value. With `drop_repeated`, an
    id that a row holds twice counts once, and the entries are in (row, id) order; with weights
    nothing is dropped, as they add up. Wrong splits or ids raise InvalidArgumentError outside XLA,
    which drops assertions; in compiled programs, `valid` is False."""
    values, row_splits, V = problem.values, problem.row_splits, problem.num_tokens
    num_values, num_rows = _length(values), _length(row_splits) - 1
    rows_given = problem.value_rowids is not None and row_splits.shape[0] != 1  # XLA needs a row
    if rows_given:
        rows = problem.value_rowids
    else:
        limit = tf.cast(num_values, row_splits.dtype)
        ends = tf.cast(tf.clip_by_value(row_splits[1:], 0, limit), tf.int32)
        rows = _rows_ended(ends, num_values)
    in_rows = rows < num_rows
    in_range = (values >= 0) & (values < V)
    valid = in_range | ~in_rows
    if not rows_given:
        valid = _check(problem, rows, ~valid)
    counts = in_rows & in_range
    ids = tf.where(counts, values, 0)
    entries = Entries(ids, rows, counts, num_rows, V, valid, rows_given, problem.weights)
    return _drop_repeated(entries) if drop_repeated and problem.weights is None else entries


def poison(tensor: Tensor, valid: Tensor) -> Tensor:
    """Return `tensor`, but NaN where not `valid`: wrong input must not pass as a result."""
    return tf.where(valid, tensor, tf.constant(float("nan"), tensor.dtype))


def for_sums(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == tf.float64 else tf.cast(tensor, tf.float32)


def sums_by_id(dy: Tensor, entries: Entries) -> Tensor:
    """Return dW [V, H] from dy [B, H], as float32 sums in dy's dtype."""
    dy_dtype, dy = dy.dtype, for_sums(dy)
    if not entries.rows_given:  # otherwise a wrong entry's row is NaN in the forward pass
        dy = poison(dy, entries.valid)
    # An additional row is there to be read for entries behind the last row.
    picked = weighted(tf.gather(tf.pad(dy, [[0, 1], [0, 0]]), entries.rows), entries)
    ids = tf.where(entries.counts, entries.ids, DROPPED)
    sums = tf.math.unsorted_segment_sum(picked, ids, entries.num_tokens)
    return tf.cast(sums, dy_dtype)


def weighted(picked: Tensor, entries: Entries) -> Tensor:
    return picked if entries.weights is None else entries.weights[:, None] * picked


def rowids_of_splits(row_splits: Tensor, num_values: int) -> Tensor:
    """Return the row of each position of L `values` buffers of N values, from `row_splits` [L, B +
    1] int32: [L, N] int32 in [0, B], never decreasing, and B behind the last row."""
    num_buffers, num_rows = row_splits.shape[0], row_splits.shape[1] - 1
    if num_buffers * num_values > _INT32_MAX:
        raise ValueError(
            f"{num_buffers} batches of {num_values} values are more than the {_INT32_MAX} that "
            "int32 counts: give fewer batches at a time"
        )
    buffer = tf.range(num_buffers)[:, None]
    # Buffers adjoin: rows that end at a buffer's end have ended where the next one begins.
    ends = tf.clip_by_value(row_splits[:, 1:], 0, num_values) + num_values * buffer
    ended = _rows_ended(tf.reshape(ends, [-1]), num_buffers * num_values)
    return tf.reshape(ended, [num_buffers, num_values]) - num_rows * buffer


def take_batches(
    values: Tensor,
    row_splits: Tensor,
    rows: Tensor,
    *,
    capacity: int,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return batches of resident sets for `multi_hot_dense`, by XLA's operations in a compiled
    program. It takes all batches at once, since most of the work is index arithmetic in many small
    kernels.

    Shapes are static. `values` [M] are uint16 or uint32, `row_splits` [R + 1] int32 or int64, and
    `rows` [L, B] int32; a row outside [0, R) is replaced by the nearest one. Returns values [L, C],
    with any ids behind the rows', row_splits [L, B + 1] int32, which end above the capacity C if
    the rows hold more ids, value_rowids [L, C] int32, and weights [L, C] if there are some.
    """
    rows = tf.clip_by_value(rows, 0, row_splits.shape[0] - 2)
    starts, ends = tf.gather(row_splits, rows), tf.gather(row_splits, rows + 1)
    lengths = tf.cast(ends - starts, tf.int32)
    splits = tf.pad(tf.cumsum(lengths, axis=1), [[0, 0], [1, 0]])
    rowids = rowids_of_splits(splits, capacity)
    # Position p of row r reads position p + shift(r).
    wide = row_splits.dtype  # resident sets may hold more ids than int32 can count
    shifts = starts - tf.cast(splits[:, :-1], wide)
    own_rows = tf.minimum(rowids, rows.shape[1] - 1)
    source = tf.range(capacity, dtype=wide) + tf.gather(shifts, own_rows, batch_dims=1)
    if values.shape[0] == 0:  # all rows are empty: there is no value to gather
        none = None if weights is None else tf.zeros_like(source, weights.dtype)
        return tf.zeros_like(source, values.dtype), splits, rowids, none
    last = tf.size(values, wide) - 1
    source = tf.clip_by_value(source, 0, last)
    own = None if weights is None else tf.gather(weights, source)
    return tf.gather(values, source), splits, rowids, own


def _length(vector: Tensor) -> Any:
    static = vector.shape[0]
    return tf.shape(vector)[0] if static is None else static


def _check(problem: Problem, rows: Tensor, wrong: Tensor) -> Tensor:
    """Return whether the splits and all ids are valid, and assert it; `wrong` marks wrong ids."""
    values, row_splits = problem.values, problem.row_splits
    num_values = _length(values)
    splits_valid = (
        (row_splits[0] == 0)
        & tf.reduce_all(row_splits[1:] >= row_splits[:-1])
        & (row_splits[-1] <= tf.cast(num_values, row_splits.dtype))
    )
    ids_valid = ~tf.reduce_any(wrong)
    # An additional element, so that there always is a first wrong one to name. tf.gather, since
    # XLA's compiler spends seconds evaluating the bounds of a slice that depends on the data.
    first = tf.argmax(tf.concat([wrong, [True]], 0))
    row, token_id = (tf.gather(tf.concat([vector, [0]], 0), first) for vector in (rows, values))
    _assert(
        splits_valid,
        "row_splits must start at 0, never decrease and end at or before the number of values,",
        *(num_values, "; got", row_splits),
    )
    _assert(
        ids_valid,
        *("row", row, "holds token id", token_id),
        f"but ids must be in [0, {problem.num_tokens})",
    )
    return splits_valid & ids_valid


def _assert(condition: Tensor, *message: Any) -> None:
    """Raise InvalidArgumentError unless `condition`: now if eager, in a graph when it runs."""
    if not tf.executing_eagerly():
        tf.debugging.Assert(condition, list(message), summarize=20)
    elif not condition:
        words = (str(part.numpy()) if tf.is_tensor(part) else str(part) for part in message)
        raise tf.errors.InvalidArgumentError(None, None, " ".join(words))


def _rows_ended(ends: Tensor, num_values: Any) -> Tensor:
    """Return how many of `ends` are at or before each position, [N] int32: a scatter over the rows
    and a cumulative sum. Under XLA, tf.searchsorted is 25 times slower at 500 rows."""
    ends_at = tf.math.unsorted_segment_sum(tf.ones_like(ends), ends, num_values + 1)
    return tf.cumsum(ends_at)[:num_values]


# tf.sort sorts (value, position) pairs, four times slower than XLA's sort of values alone, which
# exists only in compiled functions; so this is compiled wherever it is called from.
@tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
def _compiled_sort(keys: Tensor) -> Tensor:
    return tf_xla.sort(keys)


def _drop_repeated(entries: Entries) -> Entries:
    """Return the entries in (row, id) order; of equal pairs, only the first counts. Sums do not
    depend on the order, so nothing is moved back, and sorting the keys alone is enough."""
    V, num_rows = entries.num_tokens, entries.num_rows
    small = isinstance(num_rows, int) and (num_rows + 1) * V <= _INT32_MAX
    key_dtype = tf.int32 if small else tf.int64
    keys = tf.cast(entries.rows, key_dtype) * V + tf.cast(entries.ids, key_dtype)
    # A compiled function would be compiled for every length, and TensorFlow Serving runs none.
    keys = tf.sort(keys) if keys.shape[0] is None else _compiled_sort(keys)
    rows = tf.cast(keys // V, tf.int32)
    repeated = tf.concat([tf.zeros_like(keys[:1], tf.bool), keys[1:] == keys[:-1]], axis=0)
    valid = entries.valid
    if entries.rows_given:  # entries have moved, so it is unknown which was wrong
        valid = tf.fill(tf.shape(rows), tf.reduce_all(valid))
    return entries._replace(
        ids=tf.cast(keys % V, tf.int32),
        rows=rows,
        counts=(rows < num_rows) & ~repeated,
        valid=valid,
    )
