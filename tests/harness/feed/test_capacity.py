"""Capacities: any batch fits the larger one, and almost every batch the smaller."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.feed.capacity import capacities_for_any_order


@st.composite
def row_lengths(draw: st.DrawFn) -> np.ndarray:
    """Draws the row lengths of 0 to 3 ragged columns, [columns, rows]."""
    shape = draw(st.integers(0, 3)), draw(st.integers(1, 60))
    return draw(arrays.arrays(np.int64, shape, elements=st.integers(0, 3000)))


@given(row_lengths(), st.integers(1, 80))
def test_any_batch_fits_the_largest(lengths: np.ndarray, rows: int) -> None:
    capacities = capacities_for_any_order(lengths, rows=rows)
    worst = np.sort(lengths)[:, ::-1][:, :rows].sum(axis=1)
    for typical, largest, own in zip(capacities.typical, capacities.largest, worst, strict=True):
        assert 0 < typical <= largest
        assert typical % 128 == largest % 128 == 0
        assert own <= largest < own + 128 or largest == 128
    assert all(np.array(capacities.holding(worst)) >= worst)


@given(row_lengths(), st.integers(1, 80), st.data())
def test_a_batch_gets_the_smaller_capacity_that_holds_every_column(
    lengths: np.ndarray, rows: int, data: st.DataObject
) -> None:
    capacities = capacities_for_any_order(lengths, rows=rows)
    nnz = [data.draw(st.integers(0, largest)) for largest in capacities.largest]
    fits = all(own <= typical for own, typical in zip(nnz, capacities.typical, strict=True))
    assert capacities.holding(nnz) == (capacities.typical if fits else capacities.largest)


def test_almost_every_shuffled_batch_is_typical() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.gamma(1.8, 130.0, 20_000).astype(np.int64)
    capacities = capacities_for_any_order(lengths[None], rows=500)
    batches = [lengths[rng.permutation(len(lengths))[:500]].sum() for _ in range(500)]
    assert max(batches) <= capacities.typical[0]
    assert capacities.typical[0] < 0.4 * capacities.largest[0]
