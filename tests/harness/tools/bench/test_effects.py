"""Warm-up, and effects on simulated processes: found, unless it is noise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tools.bench.effects import (
    CONFIDENCE,
    Effect,
    is_steady,
    log_ratio,
    num_warm_up,
    paired_effect,
    unpaired_effect,
)

SEEDS = st.integers(0, 2**32 - 1)


def noisy(seed: int, num: int, *, deviation: float) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(0, deviation, num))


def test_the_first_fifth_is_warm_up() -> None:
    assert [num_warm_up(num) for num in (1, 4, 5, 24, 100)] == [0, 0, 1, 4, 20]
    assert log_ratio([9.0] * 3 + [0.25] * 12) == 0.25


def test_a_series_that_still_falls_is_not_steady() -> None:
    falling = np.linspace(3, 1, 40) * noisy(0, 40, deviation=0.01)
    assert not is_steady(falling)
    assert is_steady(noisy(0, 40, deviation=0.01))
    assert is_steady(noisy(0, 40, deviation=0.01) * ([5] * 8 + [1] * 32))  # the warm-up
    assert is_steady(falling[:9])  # too few to tell


def rates(seed: int, num: int, *, centre: float = 1e5, deviation: float = 0.01) -> list[float]:
    normal = np.random.default_rng(seed).normal(0, deviation, num)
    return (centre * np.exp(normal)).tolist()


@settings(max_examples=40)
@given(seed=SEEDS, num_a=st.integers(2, 12), num_b=st.integers(2, 12))
def test_exchanging_the_sides_inverts_the_ratio(seed: int, num_a: int, num_b: int) -> None:
    a, b = rates(seed, num_a), rates(seed + 1, num_b, centre=2e5)
    forth, back = unpaired_effect(a, b), unpaired_effect(b, a)
    assert forth.ratio == pytest.approx(1 / back.ratio)
    assert forth.low == pytest.approx(1 / back.high, rel=1e-2)  # resampled: not to the last bit
    assert (forth.num_a, forth.num_b) == (num_a, num_b)


@settings(max_examples=40)
@given(seed=SEEDS, num=st.integers(2, 12), factor=st.floats(0.01, 100))
def test_units_do_not_matter(seed: int, num: int, factor: float) -> None:
    a, b = rates(seed, num), rates(seed + 1, num)
    scaled = unpaired_effect([factor * x for x in a], [factor * x for x in b])
    plain = unpaired_effect(a, b)
    for name in ("ratio", "low", "high", "detectable"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-6)


@settings(max_examples=40)
@given(seed=SEEDS, num=st.integers(2, 12))
def test_pairs_that_share_their_noise_see_more(seed: int, num: int) -> None:
    shared = np.log(rates(seed, num, deviation=0.2))
    a = shared + np.log(rates(seed + 1, num, centre=1, deviation=0.001))
    b = shared + np.log(rates(seed + 2, num, centre=0.95, deviation=0.001))
    assert paired_effect((b - a).tolist()).ratio == pytest.approx(0.95, rel=5e-3)


@pytest.mark.parametrize("num", [2, 3, 5, 10, 20])
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("skewed", [True, False])
def test_noise_is_seldom_an_effect(num: int, paired: bool, skewed: bool) -> None:
    rng = np.random.default_rng(0)
    alarms, trials = 0, 300
    for _ in range(trials):
        noise = rng.gamma(1, 0.02, (2, num)) if skewed else rng.normal(0, 0.02, (2, num))
        a, b = np.exp(noise)
        log_ratios = np.log(b / a).tolist()
        effect = paired_effect(log_ratios) if paired else unpaired_effect(a.tolist(), b.tolist())
        alarms += effect.verdict != "no difference shown"
        assert (effect.verdict == "slower") == (effect.gate(0.0) == "failed")
    # 1 - CONFIDENCE of them; above 8 of 300 with a probability of 0.4 %.
    assert CONFIDENCE == 0.99
    assert alarms <= 8


@pytest.mark.parametrize(("num", "deviation"), [(4, 0.008), (5, 0.01), (10, 0.02)])
def test_an_effect_of_the_detectable_size_is_found(num: int, deviation: float) -> None:
    rng = np.random.default_rng(1)
    found, trials = 0, 200
    detectable = []
    for _ in range(trials):
        effect = paired_effect((math.log(0.95) + rng.normal(0, deviation, num)).tolist())
        found += effect.verdict == "slower"
        detectable.append(effect.detectable)
    assert found / trials > (0.75 if np.median(detectable) < 0.05 else 0.5)


@settings(max_examples=40)
@given(seed=SEEDS, unlucky=st.floats(math.log(0.4), -math.log(0.4)))
def test_one_unlucky_pair_of_ten_hides_no_difference(seed: int, unlucky: float) -> None:
    log_ratios = np.random.default_rng(seed).normal(math.log(0.95), 0.005, 10).tolist()
    effect = paired_effect([*log_ratios[:9], unlucky])
    assert effect.verdict == "slower"
    assert effect.ratio == pytest.approx(0.95, rel=0.01)
    # Below ten none is left out: each may be the rule.
    few = paired_effect([*log_ratios[:8], unlucky])
    assert few.ratio == pytest.approx(math.exp(np.mean([*log_ratios[:8], unlucky])))


@pytest.mark.parametrize(
    ("low", "high", "allowed", "verdict", "gate"),
    [
        (0.89, 0.94, 0.05, "slower", "failed"),
        (0.89, 0.94, 0.07, "slower", "inconclusive"),
        (0.94, 0.99, 0.07, "slower", "passed"),
        (0.65, 1.68, 0.05, "no difference shown", "inconclusive"),
        (0.97, 1.02, 0.05, "no difference shown", "passed"),
        (1.05, 1.20, 0.0, "faster", "passed"),
    ],
)
def test_only_the_whole_interval_decides(
    low: float, high: float, allowed: float, verdict: str, gate: str
) -> None:
    effect = Effect(ratio=(low + high) / 2, low=low, high=high, detectable=0.03, num_a=5, num_b=5)
    assert (effect.verdict, effect.gate(allowed)) == (verdict, gate)


def test_processes_that_agree_to_the_bit() -> None:
    effect = unpaired_effect([100.0, 100.0], [90.0, 90.0, 90.0])
    assert (effect.low, effect.high) == (effect.ratio, effect.ratio)
    assert effect.ratio == pytest.approx(0.9)
    assert effect.detectable == pytest.approx(0.0)


def test_rates_that_no_machine_has_overflow_no_interval() -> None:
    effect = unpaired_effect([1e-300, 1.0, 1e300], [1e300, 1.0, 1e-300], confidence=0.95)
    assert effect.high == np.inf
