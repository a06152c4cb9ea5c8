"""Throughput over windows, by hand and against all of them at once."""

import statistics

import numpy as np
import pytest

from harness.records import Window, WindowStatistics
from harness.statistics import MAX_KEPT, RunningStatistics
from tests.harness.observe.samples import window


def over(windows: list[Window]) -> WindowStatistics:
    running = RunningStatistics()
    for one in windows:
        running.add(one)
    return running.result()


def test_rates_are_medians_and_means_and_waits_are_of_all_time() -> None:
    slow = window(20, seconds=2.0, data_wait_seconds=1.9, skipped_steps=2)
    taken = over([slow, window(40), window(60, seconds=0.2, skipped_steps=1)])
    assert taken.examples_per_second == 10_000 / 0.2
    assert taken.steps_per_second == 20 / 0.2
    assert taken.tokens_per_second == 1_302_000 / 0.2
    assert taken.mean_examples_per_second == pytest.approx(30_000 / 2.36)
    assert taken.mean_steps_per_second == pytest.approx(60 / 2.36)
    assert taken.mean_tokens_per_second == pytest.approx(3_906_000 / 2.36)
    assert taken.train_seconds == pytest.approx(2.36)
    assert taken.data_wait_fraction == pytest.approx(1.908 / 2.36)
    assert (taken.examples, taken.skipped_steps, taken.most_steps) == (30_000, 3, 20)


def test_without_a_window_there_are_none() -> None:
    assert RunningStatistics().result() == WindowStatistics()


@pytest.mark.parametrize("num_windows", [MAX_KEPT, 5 * MAX_KEPT])
def test_memory_is_bounded_and_medians_stay_true(num_windows: int) -> None:
    seconds = np.random.default_rng().uniform(0.1, 0.3, num_windows).tolist()
    running = RunningStatistics()
    rates = []
    for number, taken in enumerate(seconds):
        running.add(window(20 * (number + 1), seconds=taken))
        rates.append(10_000 / taken)
    assert len(running._rates) <= MAX_KEPT
    result = running.result()
    tolerance = 0 if num_windows <= MAX_KEPT else 0.05
    assert result.examples_per_second == pytest.approx(statistics.median(rates), rel=tolerance)
    assert result.train_seconds == pytest.approx(sum(seconds))
