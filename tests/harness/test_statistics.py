"""The figures over windows, against NumPy and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics import percentile, window_statistics
from tests.harness.observers.samples import window


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=60),
    st.integers(1, 99),
)
def test_percentiles_are_numpys(values: list[float], percent: int) -> None:
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent), abs=1e-9)


@pytest.mark.parametrize("percent", [0, 100])
def test_a_percentile_outside_is_an_error(percent: int) -> None:
    with pytest.raises(ValueError, match=f"percent is {percent}"):
        percentile([1.0, 2.0], percent)


def test_rates_are_medians_and_means_and_waits_are_of_all_time() -> None:
    slow = window(20, seconds=2.0, data_wait_seconds=1.9)
    taken = window_statistics([slow, window(40), window(60, seconds=0.2)])
    assert taken.examples_per_second == 10_000 / 0.2
    assert taken.steps_per_second == 20 / 0.2
    assert taken.tokens_per_second == 1_302_000 / 0.2
    assert taken.mean_examples_per_second == pytest.approx(30_000 / 2.36)
    assert taken.mean_steps_per_second == pytest.approx(60 / 2.36)
    assert taken.mean_tokens_per_second == pytest.approx(3_906_000 / 2.36)
    assert taken.step_time_ms_p50 == 10.0
    assert taken.step_time_ms_p95 == pytest.approx(np.percentile([100.0, 8.0, 10.0], 95))
    assert taken.train_seconds == pytest.approx(2.36)
    assert taken.data_wait_fraction == pytest.approx(1.908 / 2.36)


def test_no_window_is_an_error() -> None:
    with pytest.raises(ValueError, match="no window"):
        window_statistics([])
