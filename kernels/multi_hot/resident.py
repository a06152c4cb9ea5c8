"""Batches read from sets that lie on the device: only row ids go there for each step.

Shapes: R rows of the resident sets, M their ids, L batches, B rows of a batch, C its capacity.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kernels.multi_hot.native.product import take_rows
from kernels.multi_hot.segments import rowids_of_splits

__all__ = ["take_batches", "take_rows"]

Tensor = Any


def take_batches(
    values: Tensor, row_splits: Tensor, rows: Tensor, *, capacity: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return batches of resident sets for `multi_hot_dense`, by XLA's operations on any device.

    For compiled programs. All batches at once, since most of the work is index arithmetic in many
    small kernels; `take_rows` copies one batch for an implementation that `reads_resident_rows`.

    Args:
      values: [M] uint16 or uint32 token ids, below 2^31; of a static shape.
      row_splits: [R + 1] int32 or int64, of a static shape, as in `multi_hot_dense`.
      rows: [L, B] int32 in [0, R), of a static shape. A row outside that range is replaced by
        the nearest.
      capacity: C, the static length of a batch's values; its rows must hold no more ids.

    Returns:
      values: [L, C] in the type of `values`: the rows' ids one after another, then any ids.
      row_splits: [L, B + 1] int32. It ends above C where the rows hold more than C ids.
      value_rowids: [L, C] int32, as in `multi_hot_dense`.
    """
    rows = tf.clip_by_value(rows, 0, row_splits.shape[0] - 2)
    starts, ends = tf.gather(row_splits, rows), tf.gather(row_splits, rows + 1)
    lengths = tf.cast(ends - starts, tf.int32)
    splits = tf.pad(tf.cumsum(lengths, axis=1), [[0, 0], [1, 0]])
    rowids = rowids_of_splits(splits, capacity)
    # Position p of row r reads position p + shift(r).
    wide = row_splits.dtype  # resident sets may hold more ids than int32 counts
    shifts = starts - tf.cast(splits[:, :-1], wide)
    own_rows = tf.minimum(rowids, rows.shape[1] - 1)
    source = tf.range(capacity, dtype=wide) + tf.gather(shifts, own_rows, batch_dims=1)
    if values.shape[0] == 0:  # all rows are empty: there is no value to gather
        return tf.zeros_like(source, values.dtype), splits, rowids
    last = tf.size(values, wide) - 1
    return tf.gather(values, tf.clip_by_value(source, 0, last)), splits, rowids
