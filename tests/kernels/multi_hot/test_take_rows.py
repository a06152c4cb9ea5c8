"""`take_rows` and `take_batches` against NumPy, and for rows that do not exist."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels.multi_hot.native.build import find_compiler
from kernels.multi_hot.native.product import take_rows
from kernels.multi_hot.segments import rowids_of_splits, take_batches
from tests.kernels.multi_hot.checks import needs_compiler

NUM_ROWS, NUM_BATCHES, BATCH_ROWS, CAPACITY = 30, 3, 12, 256


class Resident:
    """Random sets, some rows empty, and batches of them with repeats."""

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        batch_rows: int = BATCH_ROWS,
        largest: int = 2**16 - 1,
    ) -> None:
        lengths = rng.integers(0, 20, NUM_ROWS) * (rng.random(NUM_ROWS) < 0.8)
        self.row_splits = np.concatenate([[0], np.cumsum(lengths)])
        self.values = rng.integers(0, largest, self.row_splits[-1], endpoint=True)
        self.rows = rng.integers(0, NUM_ROWS, [NUM_BATCHES, batch_rows])

    def expected(self, rows: np.ndarray) -> tuple[list[int], list[int]]:
        """Return a batch's ids and row splits."""
        taken = [self.values[self.row_splits[r] : self.row_splits[r + 1]] for r in rows]
        splits = np.cumsum([0, *(len(row) for row in taken)])
        return np.concatenate(taken).tolist(), splits.tolist()


def take(sets: Resident, capacity: int = CAPACITY, **types: Any) -> Any:
    """Take the first batch, compiled, by the kernel."""

    @tf.function(jit_compile=True, autograph=False)
    def taking(values: tf.Tensor, row_splits: tf.Tensor, rows: tf.Tensor) -> Any:
        return take_rows(values, row_splits, rows, capacity=capacity)[:2]

    return taking(*operands(sets, sets.rows[0], types))


def take_all(sets: Resident, capacity: int = CAPACITY, **types: Any) -> Any:
    """Take all batches, compiled, by XLA's operations."""

    @tf.function(jit_compile=True, autograph=False)
    def taking(values: tf.Tensor, row_splits: tf.Tensor, rows: tf.Tensor) -> Any:
        return take_batches(values, row_splits, rows, capacity=capacity)[:3]

    return taking(*operands(sets, sets.rows, types))


def operands(sets: Resident, rows: np.ndarray, types: dict[str, Any]) -> tuple[tf.Tensor, ...]:
    return (
        tf.constant(sets.values.astype(types.get("values", np.uint16))),
        tf.constant(sets.row_splits.astype(types.get("row_splits", np.int64))),
        tf.constant(rows.astype(types.get("rows", np.int32))),
    )


@needs_compiler
def test_the_kernel_refuses_what_is_not_there(rng: np.random.Generator) -> None:
    sets = Resident(rng)
    sets.rows[0, 3] = NUM_ROWS
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"row 3 of the batch, row {NUM_ROWS}"):
        take(sets)
    sets = Resident(rng, batch_rows=200)
    with pytest.raises(tf.errors.InvalidArgumentError, match="that the batch has room for"):
        take(sets, capacity=8)


WILD = (-(2**31), -1, NUM_ROWS, NUM_ROWS + 1, 2**31 - 1)
WILD_SPLITS = (-(2**63), -1, 10**6, 2**31, 2**40, 2**63 - 1)


@needs_compiler
def test_the_kernel_raises_or_is_right_whatever_it_is_given(rng: np.random.Generator) -> None:
    @tf.function(jit_compile=True, autograph=False)
    def taking(values: tf.Tensor, row_splits: tf.Tensor, rows: tf.Tensor) -> Any:
        return take_rows(values, row_splits, rows, capacity=64)[:2]

    outcomes = {"right": 0, "refused": 0}
    sets = Resident(rng, batch_rows=6)
    values = tf.constant(sets.values.astype(np.uint16))
    for _ in range(2_000):
        rows, row_splits = rng.integers(0, NUM_ROWS, 6), sets.row_splits.copy()
        for _ in range(rng.integers(3)):
            if rng.random() < 0.5:
                rows[rng.integers(6)] = rng.choice(WILD)
            else:
                row_splits[rng.integers(NUM_ROWS + 1)] = rng.choice(WILD_SPLITS)
        try:
            taken, splits = taking(
                values, tf.constant(row_splits), tf.constant(rows.astype(np.int32))
            )
        except tf.errors.InvalidArgumentError:
            outcomes["refused"] += 1
            continue
        # The kernel looks at the rows that it takes, and no others.
        spans = [(row_splits[row], row_splits[row + 1]) for row in rows]
        assert all(0 <= begin <= end <= len(sets.values) for begin, end in spans)
        wanted = np.concatenate([sets.values[begin:end] for begin, end in spans])
        assert splits.numpy().tolist() == np.cumsum([0, *(e - b for b, e in spans)]).tolist()
        assert taken.numpy()[: len(wanted)].tolist() == wanted.tolist()
        outcomes["right"] += 1
    assert min(outcomes.values()) > 200


def test_too_many_ids_are_seen_behind_the_end(rng: np.random.Generator) -> None:
    sets = Resident(rng, batch_rows=200)
    taken, splits, rowids = take_all(sets, capacity=8)
    for rows, got, ends, places in zip(
        sets.rows, taken.numpy(), splits.numpy(), rowids.numpy(), strict=True
    ):
        ids, wanted = sets.expected(rows)
        assert ends.tolist() == wanted
        assert ends[-1] > 8
        assert got.tolist() == ids[:8]
        assert places.tolist() == np.repeat(np.arange(200), np.diff(wanted))[:8].tolist()


@pytest.mark.parametrize("num_values", [0, 250])
def test_weights_come_with_their_ids(num_values: int, rng: np.random.Generator) -> None:
    sets = Resident(rng)
    sets.row_splits = np.minimum(sets.row_splits, num_values)
    sets.values = sets.values[: sets.row_splits[-1]]
    # A weight that tells its id.
    weights = tf.constant(sets.values / 7, tf.float32)

    @tf.function(jit_compile=True, autograph=False)
    def taking(values: tf.Tensor, row_splits: tf.Tensor, rows: tf.Tensor, kernel: bool) -> Any:
        if kernel:
            return take_rows(values, row_splits, rows[0], capacity=CAPACITY, weights=weights)
        return take_batches(values, row_splits, rows, capacity=CAPACITY, weights=weights)

    arguments = operands(sets, sets.rows, {})
    ids, splits, _, own = taking(*arguments, kernel=False)
    for row_ids, row_splits, row_weights in zip(ids, splits, own, strict=True):
        end = int(row_splits[-1])
        np.testing.assert_allclose(row_weights[:end], row_ids.numpy()[:end] / 7, rtol=1e-6)
    if find_compiler() is not None:
        ids, splits, own = taking(*arguments, kernel=True)
        assert ids.numpy()[: splits[-1]].tolist() == sets.expected(sets.rows[0])[0]
        np.testing.assert_allclose(own, ids.numpy() / 7, rtol=1e-6)


def test_more_positions_than_int32_counts() -> None:
    with pytest.raises(ValueError, match="more than the 2147483647 that int32 counts"):
        rowids_of_splits(tf.zeros([2**11, 2], tf.int32), 2**20)
