"""The rows of a table that a batch touches, their gradients, and their optimizers: the rules, and
XLA's operations for all of it, which cost what the batch holds, whatever the table's size.

Shapes: B rows, V num_tokens, H units, N values, n = min(N, V) slots of touched rows; R stored
rates, S segments of L steps.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kernels.multi_hot.registry import Problem, RowOptimizer, Tensor
from kernels.multi_hot.segments import DROPPED, find_entries, sums_by_id

Slot = tuple[tuple[int, ...], Any, float]  # Shape, dtype and initial value of a slot

NUM_RATES = 4096
"""R, the limit of the steps that a row misses: after so many, all rows make up for theirs, which
spreads the cost of an update of the whole table."""
# Number of terms of the series, kTerms in native/rules.h.
_NUM_TERMS = 5
# Fraction of the first summand below which summands are left out, as float32 would lose them.
_VANISHED = 1e-8
# Limit of the distance of beta_2^(i/2) from its center within a segment. Its power _NUM_TERMS,
# 1e-8, is what the series leaves out.
_REACH = 0.025


class Touched(NamedTuple):
    """The distinct ids of a batch."""

    ids: Tensor  # [n] int32, distinct; -1 from `num` on
    num: Tensor  # [1] int32
    index: Any  # for the implementation: which of the batch's rows hold each id


class Rule(NamedTuple):
    """An optimizer of a table's touched rows.

    - `sgd`: w -= rate g. This equals an update of all rows, since the others have no gradient.
    - `adagrad`, with one sum s for each row: s += mean(g^2); w -= rate g / sqrt(s + epsilon).
    - `lazy_adam`: Keras's Adam on the touched rows alone. The others keep their weights and
      moments. In Adam itself, their moments decay and their weights move on.
    - `exact_adam`: a row first makes up for the steps it missed. Up to rounding this is Adam. Rows
      that have never been touched have zero moments, and are left as they are.
    """

    kind: RowOptimizer
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    initial: float = 0.1  # Initial value of Adagrad's sums

    def slots(self, num_tokens: int, units: int) -> dict[str, Slot]:
        matrix: Slot = ((num_tokens, units), tf.float32, 0.0)
        moments = {"momentum": matrix, "velocity": matrix}
        # int64: TensorFlow keeps int32 variables in host memory.
        last_step: Slot = ((num_tokens,), tf.int64, 0)
        steps: dict[str, Slot] = {"last_step": last_step, "rates": ((NUM_RATES,), tf.float32, 0)}
        if self.kind == "sgd":
            return {}
        if self.kind == "adagrad":
            return {"accumulator": ((num_tokens,), tf.float32, self.initial)}
        return moments | steps if self.kind == "exact_adam" else moments

    def rate(self, learning_rate: Tensor, step: Tensor) -> Tensor:
        """Return the rate of updates in a step, counted from 1; Adam's has bias correction."""
        if self.kind in ("sgd", "adagrad"):
            return learning_rate
        step = tf.cast(step, tf.float32)
        remains_1, remains_2 = tf.pow(self.beta_1, step), tf.pow(self.beta_2, step)
        return learning_rate * tf.sqrt(1 - remains_2) / (1 - remains_1)


class StepNumbers(NamedTuple):
    """The numbers of a step that an update depends on."""

    rate: Tensor  # from `Rule.rate`
    factor: Tensor  # of the gradients, float32
    step: Tensor  # int64, counted from 1
    active: Tensor  # bool; where it is false, nothing changes


@functools.cache
def series(beta_1: float, beta_2: float) -> list[np.ndarray]:
    """Return exact Adam's decays [2, R + 1], centers [S] and terms [S, _NUM_TERMS, L], float32; see
    native/rules.h."""
    num_steps = min(NUM_RATES, math.ceil(math.log(_VANISHED) / math.log(beta_1)))
    length = min(num_steps, max(1, int(2 * _REACH / (-math.log(beta_2) / 2))))
    num_segments = -(-num_steps // length)
    steps = np.arange(1, num_segments * length + 1).reshape(num_segments, length)
    u = beta_2 ** (steps / 2)
    centers = (u[:, 0] + u[:, -1]) / 2
    away = u / centers[:, None] - 1
    first = np.where(steps <= num_steps, beta_1 ** steps.astype(float), 0.0)
    terms = np.stack([first * away**power for power in range(_NUM_TERMS)], axis=1)
    missed = np.arange(NUM_RATES + 1)
    decays = np.stack([beta_1**missed, beta_2**missed])
    return [part.astype(np.float32) for part in (decays, centers, terms)]


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
    sums = sums_by_id(tf.cast(dy, tf.float32), touched.index)[: touched.ids.shape[0]]
    return sums, sum_of_squares(sums)


def sum_of_squares(rows: Tensor) -> Tensor:
    return tf.reduce_sum(tf.square(rows))[None]


def update(
    rule: Rule,
    parts: Sequence[Tensor],
    touched: Touched,
    dy: Tensor,
    rows: Tensor | None,
    numbers: StepNumbers,
) -> list[Tensor]:
    """Return a table and its slots after an update, by XLA's operations in a compiled program.

    `parts` are the table [V, H] and its slots, in the order of `Rule.slots`; `dy` [B, H] is the
    gradient of the products, and `rows` [n, H] those of the touched rows, if computed before, all
    float32. Only the native kernels have `exact_adam`.
    """
    rate, factor, step, active = numbers
    if rule.kind == "exact_adam":
        raise ValueError("exact_adam needs the native kernels: use the implementation 'native'")
    V = parts[0].shape[0]
    counts = tf.range(touched.ids.shape[0]) < tf.where(active, touched.num, 0)
    ids = tf.where(counts, touched.ids, 0)
    g = factor * (row_gradients(dy, touched)[0] if rows is None else rows)
    w, *slots = (tf.cast(tf.gather(part, ids), tf.float32) for part in parts)
    if rule.kind == "sgd":
        new = [w - rate * g]
    elif rule.kind == "adagrad":
        sums = slots[0] + tf.reduce_mean(tf.square(g), axis=1)
        new = [w - rate * g / tf.sqrt(sums + rule.epsilon)[:, None], sums]
    else:
        m = slots[0] + (g - slots[0]) * (1 - rule.beta_1)
        v = slots[1] + (tf.square(g) - slots[1]) * (1 - rule.beta_2)
        new = [w - m * rate / (tf.sqrt(v) + rule.epsilon), m, v]
    if parts[0].dtype == tf.bfloat16:
        new[0] = _rounded_by_chance(new[0], ids, step)
    # XLA drops rows scattered outside the table.
    places = tf.where(counts, touched.ids, V)[:, None]
    return [
        tf.tensor_scatter_nd_update(part, places, own) for part, own in zip(parts, new, strict=True)
    ]


def _rounded_by_chance(rows: Tensor, ids: Tensor, step: Tensor) -> Tensor:
    """Return float32 rows [n, H] as bfloat16, rounded as native/rules.h explains."""
    seeds = scrambled(scrambled(tf.cast(step, tf.uint32)) + tf.cast(ids, tf.uint32))
    places = tf.cast(tf.range(rows.shape[1]), tf.uint32)
    bits = tf.bitcast(rows, tf.uint32) + (scrambled(seeds[:, None] + places) & 0xFFFF)
    rounded = tf.cast(tf.bitwise.right_shift(bits, 16), tf.uint16)
    # A GPU's NaN is 0x7fffffff, which any addition would turn into a number.
    nan = tf.constant(np.nan, tf.bfloat16)
    return tf.where(tf.math.is_nan(rows), nan, tf.bitcast(rounded, tf.bfloat16))


def scrambled(x: Tensor, between: Tensor | int = 0) -> Tensor:
    """Return a hash of uint32 numbers: `lowbias32` of Wellons, "Prospecting for hash functions",
    2018. `between` is added between its two rounds of multiply and shift."""
    x = (x ^ tf.bitwise.right_shift(x, 16)) * 0x7FEB352D + between
    x = (x ^ tf.bitwise.right_shift(x, 15)) * 0x846CA68B
    return x ^ tf.bitwise.right_shift(x, 16)
