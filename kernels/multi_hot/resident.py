"""Batches read from sets that lie on the device: only row ids go there for each step.

Shapes: R rows of the resident sets, M their ids, B rows of a batch, C its capacity.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kernels.multi_hot.native import resident as native

Tensor = Any


def take_rows(
    values: Tensor, row_splits: Tensor, rows: Tensor, *, capacity: int, implementation: str
) -> tuple[Tensor, Tensor]:
    """Return the named rows of resident sets as a batch for `multi_hot_dense`.

    Args:
      values: [M] uint16 or int32 token ids.
      row_splits: [R + 1] int32 or int64, as in `multi_hot_dense`.
      rows: [B] int32 in [0, R), of a static length.
      capacity: C, the static length of the result's values; the rows must hold no more ids.
      implementation: `native` copies rows by a kernel; any other name gathers by XLA's operations,
        on any device.

    Returns:
      values: [C] int32, the rows' ids one after another, then padding.
      row_splits: [B + 1] int32. Where the rows hold more than C ids, it ends above C, which the
        product refuses in its own way; the native kernel raises.

    Raises:
      ValueError: a length that must be static is not.
      tf.errors.InvalidArgumentError: from the native kernel, when it runs: a row that is not there
        or rows that hold more than C ids. XLA's gather takes the nearest row that is there.
    """
    if rows.shape[0] is None:
        raise ValueError("rows must have a static length: trace the function with its real shape")
    if implementation == "native":
        return native.take_rows(values, row_splits, rows, capacity=capacity)
    starts, ends = tf.gather(row_splits, rows), tf.gather(row_splits, rows + 1)
    splits = tf.concat([[0], tf.cumsum(tf.cast(ends - starts, tf.int32))], axis=0)
    # Position p of row r reads position p + shift(r). The shift changes where a row begins, so the
    # sum of all changes up to p is the shift there: one scatter and one cumulative sum.
    wide = row_splits.dtype  # resident sets may hold more ids than int32 counts
    shifts = starts - tf.cast(splits[:-1], wide)
    changes = shifts - tf.concat([tf.zeros([1], wide), shifts[:-1]], axis=0)
    begins = tf.minimum(splits[:-1], capacity)
    at = tf.math.unsorted_segment_sum(changes, begins, capacity + 1)
    source = tf.range(capacity, dtype=wide) + tf.cumsum(at)[:capacity]
    last = tf.maximum(tf.size(values, wide) - 1, 0)
    taken = tf.gather(values, tf.clip_by_value(source, 0, last))
    return tf.cast(taken, tf.int32), splits
