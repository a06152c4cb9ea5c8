"""The row of each position, for several buffers at once, against NumPy."""

import secrets

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from kernels.multi_hot.segments import rowids_of_splits

NUM_VALUES, NUM_ROWS = 24, 5
lengths_of_a_buffer = st.lists(st.integers(0, 4), min_size=NUM_ROWS, max_size=NUM_ROWS)


def rowids(row_splits: np.ndarray, num_values: int) -> np.ndarray:
    """Return how many rows have ended at or before each position, by the definition."""
    positions = np.arange(num_values)
    return np.array([(splits[1:, None] <= positions).sum(axis=0) for splits in row_splits])


@given(st.lists(lengths_of_a_buffer, min_size=1, max_size=4))
def test_the_row_of_each_position(lengths: list[list[int]]) -> None:
    """Behind the ids of all rows it is B, which stands for no row."""
    row_splits = np.array([np.cumsum([0, *own]) for own in lengths], np.int32)
    found = rowids_of_splits(tf.constant(row_splits), NUM_VALUES)
    assert found.dtype == tf.int32
    assert found.shape == [len(lengths), NUM_VALUES]
    for own, got in zip(lengths, found.numpy(), strict=True):
        padding = [NUM_ROWS] * (NUM_VALUES - sum(own))
        assert got.tolist() == [*np.repeat(np.arange(NUM_ROWS), own), *padding]


@pytest.mark.parametrize("num_values", [1, 7, 300])
def test_rows_that_end_behind_a_buffer_leave_its_neighbours_alone(num_values: int) -> None:
    """This happens when a batch holds more ids than its capacity."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 60, [6, 9]) * (rng.random([6, 9]) < 0.7)
    lengths[2] = 0
    row_splits = np.pad(lengths.cumsum(axis=1), [(0, 0), (1, 0)]).astype(np.int32)
    function = tf.function(rowids_of_splits, jit_compile=True, autograph=False)
    found = function(tf.constant(row_splits), num_values)
    np.testing.assert_array_equal(found, rowids(row_splits, num_values))


def test_buffers_without_rows_and_without_values() -> None:
    assert rowids_of_splits(tf.zeros([2, 1], tf.int32), 3).numpy().tolist() == [[0, 0, 0]] * 2
    assert rowids_of_splits(tf.zeros([2, 4], tf.int32), 0).shape == [2, 0]
