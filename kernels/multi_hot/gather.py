"""`gather`: XLA gather and segment sum. Portable: any device, no compiler on the machine.

Shapes: B rows, V num_tokens, H units, N values.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kernels.multi_hot.problem import Problem
from kernels.multi_hot.segments import Entries, find_entries, poison

Tensor = Any


def index(problem: Problem) -> Entries:
    """Return the row of each id, with repeated ids dropped unless the rows are unique."""
    return find_entries(problem, drop_repeated=not problem.unique)


def forward(table: Tensor, entries: Entries) -> Tensor:
    """Return [B, H] in the table's dtype, accumulated in float32."""
    picked = tf.cast(tf.gather(table, entries.ids), tf.float32)
    # Entries that do not count add up in row B, which is cut off.
    sums = tf.math.unsorted_segment_sum(picked, entries.rows, entries.num_rows + 1)
    return tf.cast(poison(sums[: entries.num_rows], entries.valid), table.dtype)


def backward(dy: Tensor, entries: Entries) -> Tensor:
    """Return the table's gradient [V, H] in dy's dtype, accumulated in float32."""
    # The zero row behind the last is what entries that do not count add to the gradient.
    padded = tf.pad(poison(tf.cast(dy, tf.float32), entries.valid), [[0, 1], [0, 0]])
    picked = tf.gather(padded, entries.rows)
    sums = tf.math.unsorted_segment_sum(picked, entries.ids, entries.num_tokens)
    return tf.cast(sums, dy.dtype)
