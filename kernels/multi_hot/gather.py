"""`gather`: XLA gather and segment sum. Portable: any device, no compiler on the machine.

Shapes: B rows, V num_tokens, H units, N values.
"""

import tensorflow as tf

from kernels.multi_hot.registry import Problem, Product, Tensor
from kernels.multi_hot.segments import Entries, find_entries, for_sums, poison

# Number of a segment that is not summed. If padding had a segment of its own, a GPU would add all
# padding entries to one place, one after another.
DROPPED = -1


def _index(problem: Problem) -> Entries:
    return find_entries(problem, drop_repeated=not problem.unique)


def _forward(table: Tensor, entries: Entries) -> Tensor:
    picked = _weighted(for_sums(tf.gather(table, entries.ids)), entries)
    if entries.rows_given:
        picked = poison(tf.where(entries.counts[:, None], picked, 0.0), entries.valid[:, None])
        return _sorted_segment_sum(picked, entries.rows, num_segments=entries.num_rows)
    rows = tf.where(entries.counts, entries.rows, DROPPED)
    # XLA cannot sum over zero segments, so there is at least one.
    sums = tf.math.unsorted_segment_sum(picked, rows, tf.maximum(entries.num_rows, 1))
    return poison(sums[: entries.num_rows], entries.valid)


def backward(dy: Tensor, entries: Entries) -> Tensor:
    dy_dtype, dy = dy.dtype, for_sums(dy)
    if not entries.rows_given:  # otherwise a wrong entry's row is NaN in `_forward`
        dy = poison(dy, entries.valid)
    # An additional row is there to be read for entries behind the last row.
    picked = _weighted(tf.gather(tf.pad(dy, [[0, 1], [0, 0]]), entries.rows), entries)
    ids = tf.where(entries.counts, entries.ids, DROPPED)
    sums = tf.math.unsorted_segment_sum(picked, ids, entries.num_tokens)
    return tf.cast(sums, dy_dtype)


def _weighted(picked: Tensor, entries: Entries) -> Tensor:
    return picked if entries.weights is None else entries.weights[:, None] * picked


# TensorFlow has this sum only under XLA, so it is compiled wherever it is called from. Segments
# from `num_segments` on are dropped.
@tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
def _sorted_segment_sum(data: Tensor, segments: Tensor, *, num_segments: int) -> Tensor:
    return tf.raw_ops.SegmentSumV2(data=data, segment_ids=segments, num_segments=num_segments)


PRODUCT = Product(index=_index, forward=_forward, backward=backward)
