"""Distributions against NumPy's histogram, over values that it takes and those that it does not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.engine.distribution import NUM_BINS, distribution


@given(arrays.arrays(np.float32, st.integers(0, 200), elements=st.floats(width=32)))
def test_every_element_is_in_a_bin_or_not_finite(values: np.ndarray) -> None:
    spread = distribution("name", values)
    finite = values[np.isfinite(values)]
    assert sum(spread.counts) == finite.size
    assert sum(spread.counts) + spread.num_non_finite == values.size
    assert len(spread.edges) == len(spread.counts) + 1 == NUM_BINS + 1
    assert list(spread.edges) == sorted(spread.edges)
    if finite.size:
        assert spread.edges[0] <= finite.min()
        assert spread.edges[-1] >= finite.max()


def test_counts_are_where_the_values_are() -> None:
    spread = distribution("name", np.array([[0.0, 0.05], [2.9, 3.0]], np.float32))
    assert (spread.name, spread.num_non_finite) == ("name", 0)
    assert spread.edges == pytest.approx(np.linspace(0, 3, NUM_BINS + 1))
    assert spread.counts == (2, *[0] * (NUM_BINS - 3), 0, 2)
