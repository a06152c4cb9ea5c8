"""The multi-hot product for other runtimes' programs, without scatters, segments or XLA.

Converters have no good counterpart for these: ONNX Runtime adds up a scatter in several threads
that overwrite each other's sums. Instead, every row is padded to the longest, so memory grows with
rows * longest row * units.
Shapes: B rows, V num_tokens, H units, N values, L ids of the longest row.
"""

import tensorflow as tf

from kernels.multi_hot.registry import Tensor


def padded_dense(
    table: Tensor,
    values: Tensor,
    row_splits: Tensor,
    *,
    unique: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the product that `multi_hot_dense` computes, without a gradient, for a float32 table
    and B > 0. A row with an id outside [0, V) is NaN."""
    V = table.shape[0]
    row_splits = tf.cast(row_splits, tf.int32)
    starts, ends = row_splits[:-1, None], row_splits[1:, None]
    positions = starts + tf.range(tf.maximum(tf.reduce_max(ends - starts), 1))[None, :]
    in_row = positions < ends
    positions = tf.where(in_row, positions, 0)
    # An additional element is there to be read if there are no values.
    ids = tf.gather(tf.concat([values, [0]], 0), positions)
    counts = in_row & (ids >= 0) & (ids < V)
    valid = tf.reduce_all(counts | ~in_row, axis=1, keepdims=True)
    if weights is None and not unique:
        ids = tf.sort(tf.where(counts, ids, V), axis=1)
        again = tf.concat([tf.zeros_like(ids[:, :1], tf.bool), ids[:, 1:] == ids[:, :-1]], 1)
        counts = (ids < V) & ~again
    share = tf.cast(counts, table.dtype)
    if weights is not None:
        own = tf.gather(tf.concat([weights, [0.0]], 0), positions)
        share = tf.where(counts, tf.cast(own, table.dtype), 0.0)
    picked = tf.gather(table, tf.where(counts, ids, 0))
    sums = tf.linalg.matmul(share[:, None, :], picked)[:, 0, :]
    return tf.where(valid, sums, tf.constant(float("nan"), table.dtype))
