"""The rows of a table that a batch touches, and their gradients, in XLA's operations.

A gradient by rows costs what the batch holds, whatever the table's size.
Shapes: B rows, V num_tokens, H units, N values, n = min(N, V) slots.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from kernels.multi_hot.gather import DROPPED, backward
from kernels.multi_hot.registry import Problem
from kernels.multi_hot.segments import find_entries

Tensor = Any


class Touched(NamedTuple):
    """The distinct ids of a batch."""

    ids: Tensor  # [n] int32, distinct; -1 from `num` on
    num: Tensor  # [1] int32
    index: Any  # for the implementation: which of the batch's rows hold each id


def touch(problem: Problem) -> Touched:
    """Return the touched rows; the index is the entries sorted by id, with slots for ids."""
    entries = find_entries(problem, drop_repeated=not problem.unique)
    V = problem.num_tokens
    keys = tf.where(entries.counts, entries.ids, V)
    order = tf.argsort(keys, stable=True)  # stable, so that rows stay in order within an id
    keys = tf.gather(keys, order)
    is_first = tf.concat([tf.ones_like(keys[:1], tf.bool), keys[1:] != keys[:-1]], axis=0)
    counts = keys < V
    slots = tf.where(counts, tf.cumsum(tf.cast(is_first, tf.int32)) - 1, DROPPED)
    num = tf.reduce_sum(tf.cast(is_first & counts, tf.int32))[None]
    num_slots = V if keys.shape[0] is None else min(keys.shape[0], V)
    ids = tf.math.unsorted_segment_max(keys, slots, max(num_slots, 1))[:num_slots]
    ids = tf.where(tf.range(num_slots) < num, ids, -1)
    index = entries._replace(
        ids=slots,
        rows=tf.gather(entries.rows, order),
        counts=counts,
        num_tokens=max(num_slots, 1),
        valid=tf.gather(entries.valid, order) if entries.rows_given else entries.valid,
        weights=None if entries.weights is None else tf.gather(entries.weights, order),
    )
    return Touched(ids, num, index)


def row_gradients(dy: Tensor, touched: Touched) -> tuple[Tensor, Tensor]:
    """Return the gradients of the touched rows, float32 [n, H] and 0 in unused slots, and the sum
    of their squares, float32 [1]."""
    sums = backward(tf.cast(dy, tf.float32), touched.index)[: touched.ids.shape[0]]
    return sums, sum_of_squares(sums)


def sum_of_squares(rows: Tensor) -> Tensor:
    return tf.reduce_sum(tf.square(rows))[None]
