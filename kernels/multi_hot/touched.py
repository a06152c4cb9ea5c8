"""The rows of a table that a batch touches, and their gradients, in XLA's operations.

A gradient by rows costs what the batch holds, whatever the table's size.
Shapes: B rows, V num_tokens, H units, N values, n = min(N, V) slots.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from kernels.multi_hot.registry import Problem
from kernels.multi_hot.segments import find_entries, poison

Tensor = Any

# Number of a segment that is not summed.
_DROPPED = -1


class Touched(NamedTuple):
    """The distinct ids of a batch."""

    ids: Tensor  # [n] int32, distinct; -1 from `num` on
    num: Tensor  # [1] int32
    index: Any  # for the implementation: which of the batch's rows hold each id


class _Index(NamedTuple):
    """Parts of the entries, sorted by id."""

    slots: Tensor  # [N] int32; _DROPPED where the entry does not count
    rows: Tensor  # [N] int32 in [0, B]
    weights: Tensor | None  # [N] float32
    valid: Tensor  # bool: a scalar, or [N]
    rows_given: bool


def touch(problem: Problem) -> Touched:
    entries = find_entries(problem, drop_repeated=not problem.unique)
    V = problem.num_tokens
    keys = tf.where(entries.counts, entries.ids, V)
    order = tf.argsort(keys, stable=True)  # stable, so that rows stay in order within an id
    keys = tf.gather(keys, order)
    is_first = tf.concat([tf.ones_like(keys[:1], tf.bool), keys[1:] != keys[:-1]], axis=0)
    counts = keys < V
    slots = tf.where(counts, tf.cumsum(tf.cast(is_first, tf.int32)) - 1, _DROPPED)
    num = tf.reduce_sum(tf.cast(is_first & counts, tf.int32))[None]
    num_slots = V if keys.shape[0] is None else min(keys.shape[0], V)
    ids = tf.math.unsorted_segment_max(keys, slots, max(num_slots, 1))[:num_slots]
    ids = tf.where(tf.range(num_slots) < num, ids, -1)
    weights = None if entries.weights is None else tf.gather(entries.weights, order)
    valid = tf.gather(entries.valid, order) if entries.rows_given else entries.valid
    rows = tf.gather(entries.rows, order)
    return Touched(ids, num, _Index(slots, rows, weights, valid, entries.rows_given))


def row_gradients(dy: Tensor, touched: Touched) -> tuple[Tensor, Tensor]:
    """Return the gradients of the touched rows, float32 [n, H] and 0 in unused slots, and the sum
    of their squares, float32 [1]."""
    index: _Index = touched.index
    dy = tf.cast(dy, tf.float32)
    if not index.rows_given:  # otherwise a wrong entry's row is NaN in the forward pass
        dy = poison(dy, index.valid)
    # An additional row is there to be read for entries behind the last row.
    picked = tf.gather(tf.pad(dy, [[0, 1], [0, 0]]), index.rows)
    if index.weights is not None:
        picked = index.weights[:, None] * picked
    num_slots = touched.ids.shape[0]
    sums = tf.math.unsorted_segment_sum(picked, index.slots, max(num_slots, 1))[:num_slots]
    return sums, sum_of_squares(sums)


def sum_of_squares(rows: Tensor) -> Tensor:
    return tf.reduce_sum(tf.square(rows))[None]
