"""`gather`: XLA gather and segment sum. Portable: any device, no compiler on the machine.

Shapes: B rows, V num_tokens, H units, N values.
"""

import tensorflow as tf

from kernels.multi_hot.registry import Problem, Product, Tensor
from kernels.multi_hot.segments import (
    DROPPED,
    Entries,
    find_entries,
    for_sums,
    poison,
    sums_by_id,
    weighted,
)
from kernels.multi_hot.table_rules import row_gradients, touch, update


def _index(problem: Problem) -> Entries:
    return find_entries(problem, drop_repeated=not problem.unique)


def _forward(table: Tensor, entries: Entries) -> Tensor:
    picked = weighted(for_sums(tf.gather(table, entries.ids)), entries)
    if entries.rows_given:
        picked = poison(tf.where(entries.counts[:, None], picked, 0.0), entries.valid[:, None])
        return _sorted_segment_sum(picked, entries.rows, num_segments=entries.num_rows)
    rows = tf.where(entries.counts, entries.rows, DROPPED)
    # XLA cannot sum over zero segments, so there is at least one.
    sums = tf.math.unsorted_segment_sum(picked, rows, tf.maximum(entries.num_rows, 1))
    return poison(sums[: entries.num_rows], entries.valid)


# TensorFlow has this sum only under XLA, so it is compiled wherever it is called from. Segments
# from `num_segments` on are dropped.
@tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
def _sorted_segment_sum(data: Tensor, segments: Tensor, *, num_segments: int) -> Tensor:
    return tf.raw_ops.SegmentSumV2(data=data, segment_ids=segments, num_segments=num_segments)


PRODUCT = Product(
    index=_index,
    forward=_forward,
    backward=sums_by_id,
    touch=touch,
    row_gradients=row_gradients,
    update=update,
)
