"""Capacities: any batch fits the larger one, and almost every batch the smaller."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.pipeline.capacity import capacities_for_any_order, capacity_for_batches

row_lengths = st.lists(st.integers(0, 3000), min_size=1, max_size=60).map(np.array)


@given(row_lengths, st.integers(1, 80))
def test_any_batch_fits_the_largest(lengths: np.ndarray, rows: int) -> None:
    capacities = capacities_for_any_order(lengths, rows=rows)
    worst = int(np.sort(lengths)[::-1][:rows].sum())
    assert 0 < capacities.typical <= capacities.largest
    assert worst <= capacities.largest < worst + 128 or capacities.largest == 128
    assert capacities.holding(worst) == capacities.largest


@given(row_lengths, st.integers(1, 80), st.data())
def test_a_batch_gets_the_smaller_capacity_that_holds_it(
    lengths: np.ndarray, rows: int, data: st.DataObject
) -> None:
    capacities = capacities_for_any_order(lengths, rows=rows)
    nnz = data.draw(st.integers(0, capacities.largest))
    held = capacities.holding(nnz)
    assert held in {capacities.typical, capacities.largest}
    assert nnz <= held
    assert held == capacities.typical or nnz > capacities.typical


def test_almost_every_shuffled_batch_is_typical() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.gamma(1.8, 130.0, 20_000).astype(np.int64)
    capacities = capacities_for_any_order(lengths, rows=500)
    batches = [lengths[rng.permutation(len(lengths))[:500]].sum() for _ in range(2000)]
    assert max(batches) <= capacities.typical
    assert capacities.typical < 0.4 * capacities.largest


def test_an_outlier_falls_to_the_largest() -> None:
    lengths = np.full(1000, 10)
    lengths[500:504] = 40_000
    capacities = capacities_for_any_order(lengths, rows=10)
    assert capacities.holding(100) == capacities.typical < capacities.largest
    assert capacities.holding(4 * 40_000 + 60) == capacities.largest


def test_padding_that_is_cheaper_than_a_program_merges_both() -> None:
    capacities = capacities_for_any_order(np.full(1000, 100), rows=64)
    assert capacities.typical == capacities.largest == 6400


def test_rows_without_ids_still_have_a_buffer() -> None:
    capacities = capacities_for_any_order(np.zeros(5, np.int64), rows=2)
    assert capacities.typical == capacities.largest == 128


def test_more_than_the_largest_is_refused() -> None:
    capacities = capacities_for_any_order(np.full(10, 3), rows=5)
    with pytest.raises(AssertionError):
        capacities.holding(capacities.largest + 1)


@given(st.lists(st.integers(0, 5000), min_size=1).map(np.array))
def test_known_batches_get_one_capacity(nnz: np.ndarray) -> None:
    capacities = capacity_for_batches(nnz)
    assert capacities.typical == capacities.largest
    assert nnz.max() <= capacities.largest < nnz.max() + 128 or capacities.largest == 128
