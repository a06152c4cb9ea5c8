"""Warm-up on synthetic series: found where there is one, not where there is none."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.bench.steady import is_steady, num_warm_up

SEEDS = st.integers(0, 2**32 - 1)


def noisy(seed: int, num: int, *, deviation: float) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(0, deviation, num))


@given(seed=SEEDS, num=st.integers(20, 300), share=st.floats(0.1, 0.4), factor=st.floats(1.3, 5))
def test_a_slow_beginning_is_cut_off(seed: int, num: int, share: float, factor: float) -> None:
    slow = int(share * num)
    times = noisy(seed, num, deviation=0.01)
    times[:slow] *= factor
    # MSER-5 sees means of five: it may spare the one that holds the change.
    assert slow - 5 < num_warm_up(times) <= num // 2
    assert is_steady(times)


@given(seed=SEEDS, num=st.integers(60, 300), tau=st.floats(2, 8))
def test_a_beginning_that_fades_is_cut_where_it_drowns_in_noise(
    seed: int, num: int, tau: float
) -> None:
    times = noisy(seed, num, deviation=0.01) * (1 + np.exp(-np.arange(num) / tau))
    cut = num_warm_up(times)
    assert np.exp(-cut / tau) < 0.1


def test_one_spike_in_the_middle_is_no_warm_up() -> None:
    cuts = []
    for seed in range(200):
        times = noisy(seed, 100, deviation=0.02)
        times[35] *= 20
        cuts.append(num_warm_up(times))
    assert np.mean(np.array(cuts) > 35) < 0.05


def test_a_steady_series_loses_little_on_average() -> None:
    cuts = [num_warm_up(noisy(seed, 100, deviation=0.02)) for seed in range(200)]
    assert np.mean(cuts) < 5


@given(seed=SEEDS, num=st.integers(1, 400))
def test_at_most_half_is_cut_and_units_do_not_matter(seed: int, num: int) -> None:
    times = noisy(seed, num, deviation=0.3)
    assert 0 <= num_warm_up(times) <= num // 2
    assert num_warm_up(times) == num_warm_up(times * 1024)


def test_a_series_that_still_falls_is_not_steady() -> None:
    falling = np.linspace(3, 1, 40) * noisy(0, 40, deviation=0.01)
    assert not is_steady(falling)
    assert is_steady(noisy(0, 40, deviation=0.01))
