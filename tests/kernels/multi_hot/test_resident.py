"""`take_rows`: every implementation against NumPy, eagerly and compiled, and what it refuses."""

import shutil
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels.multi_hot.resident import take_rows

IMPLEMENTATIONS = [
    "gather",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
    ),
]
NUM_ROWS, CAPACITY = 30, 256


class Resident:
    """Random sets, some rows empty, and a batch of them with repeats."""

    def __init__(self, rng: np.random.Generator, num_taken: int = 12) -> None:
        lengths = rng.integers(0, 20, NUM_ROWS) * (rng.random(NUM_ROWS) < 0.8)
        self.row_splits = np.concatenate([[0], np.cumsum(lengths)])
        self.values = rng.integers(0, 2**16, self.row_splits[-1])
        self.rows = rng.integers(0, NUM_ROWS, num_taken)

    def expected(self) -> tuple[list[int], list[int]]:
        taken = [self.values[self.row_splits[r] : self.row_splits[r + 1]] for r in self.rows]
        splits = np.cumsum([0, *(len(row) for row in taken)])
        return np.concatenate(taken).tolist(), splits.tolist()


def take(sets: Resident, implementation: str, capacity: int = CAPACITY, **types: Any) -> Any:
    """The batch, compiled."""

    @tf.function(jit_compile=True)
    def taking(values: tf.Tensor, row_splits: tf.Tensor, rows: tf.Tensor) -> Any:
        return take_rows(values, row_splits, rows, capacity=capacity, implementation=implementation)

    return taking(
        tf.constant(sets.values.astype(types.get("values", np.uint16))),
        tf.constant(sets.row_splits.astype(types.get("row_splits", np.int32))),
        tf.constant(sets.rows.astype(np.int32)),
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("values", [np.uint16, np.int32])
@pytest.mark.parametrize("row_splits", [np.int32, np.int64])
def test_the_rows_come_in_order(
    implementation: str, values: type, row_splits: type, rng: np.random.Generator
) -> None:
    sets = Resident(rng)
    taken, splits = take(sets, implementation, values=values, row_splits=row_splits)
    ids, ends = sets.expected()
    assert splits.numpy().tolist() == ends
    assert taken.numpy()[: len(ids)].tolist() == ids
    assert taken.dtype == splits.dtype == tf.int32
    assert taken.shape == [CAPACITY]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_that_are_all_empty(implementation: str, rng: np.random.Generator) -> None:
    sets = Resident(rng)
    sets.row_splits = np.zeros(NUM_ROWS + 1, np.int64)
    _, splits = take(sets, implementation)
    assert splits.numpy().tolist() == [0] * (len(sets.rows) + 1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_batch_that_fills_the_capacity(implementation: str, rng: np.random.Generator) -> None:
    sets = Resident(rng)
    ids, _ = sets.expected()
    taken, _ = take(sets, implementation, capacity=max(1, len(ids)))
    assert taken.numpy()[: len(ids)].tolist() == ids


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_kernel_refuses_what_is_not_there(rng: np.random.Generator) -> None:
    sets = Resident(rng)
    sets.rows[3] = NUM_ROWS
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"row 3 of the batch is row {NUM_ROWS}"
    ):
        take(sets, "native")
    sets.rows[3] = -1
    with pytest.raises(tf.errors.InvalidArgumentError, match="row 3 of the batch is row -1"):
        take(sets, "native")
    sets = Resident(rng, num_taken=200)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more ids than its capacity, 8"):
        take(sets, "native", capacity=8)
    sets.row_splits = sets.row_splits[::-1].copy()
    with pytest.raises(tf.errors.InvalidArgumentError, match="of the resident sets goes from"):
        take(sets, "native")


def test_too_many_ids_are_seen_behind_the_end_without_the_kernel(rng: np.random.Generator) -> None:
    sets = Resident(rng, num_taken=200)
    _, splits = take(sets, "gather", capacity=8)
    assert splits.numpy()[-1] > 8
