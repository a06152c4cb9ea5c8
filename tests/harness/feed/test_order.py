"""The order is a permutation that depends on (seed, epoch) and on nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.feed.plan import BLOCK_ROWS, WINDOW_BLOCKS, block_order, epoch_order

seeds = st.integers(0, 2**31 - 1)
epochs = st.integers(0, 10_000)


@given(rows=st.integers(1, 500), seed=seeds, epoch=epochs)
def test_is_a_permutation(rows: int, seed: int, epoch: int) -> None:
    order = epoch_order(rows, seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(rows))


def test_is_the_same_in_every_version() -> None:
    # Written down, since a resumed run may meet another NumPy.
    assert epoch_order(10, seed=3, epoch=1).tolist() == [9, 7, 8, 3, 5, 6, 4, 0, 2, 1]


def test_blocks_are_read_a_window_at_a_time() -> None:
    """Each row once; a window of rows from so many blocks, mixed; other epochs, other windows."""
    rows = 3 * WINDOW_BLOCKS * BLOCK_ROWS - 500  # the last block is not full
    windows = []
    for epoch in (0, 1):
        order = block_order(rows, seed=3, epoch=epoch)
        np.testing.assert_array_equal(np.sort(order), np.arange(rows))
        with pytest.raises(ValueError, match="read-only"):
            order[0] = 3
        (first, *_) = np.array_split(order, 3)
        blocks = np.unique(first[: (WINDOW_BLOCKS - 1) * BLOCK_ROWS] // BLOCK_ROWS)
        assert len(blocks) in (WINDOW_BLOCKS, WINDOW_BLOCKS + 1)  # where a window has the short one
        windows.append(set(blocks.tolist()))
        batch = first[:500] // BLOCK_ROWS
        assert len(np.unique(batch)) > WINDOW_BLOCKS / 2
    assert windows[0] != windows[1]
    small = block_order(100, seed=3, epoch=0)
    assert small.tolist() != block_order(100, seed=3, epoch=1).tolist()
    # Written down, as above.
    assert block_order(10, seed=3, epoch=1).tolist() == [8, 0, 1, 3, 9, 6, 7, 4, 2, 5]
