"""The statistics of a comparison on simulated processes: noise is no effect, an effect is found."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bench.compare import (
    CONFIDENCE,
    Effect,
    compare,
    compare_pairs,
    paired_effect,
    shared_confidence,
    unpaired_effect,
)
from harness.errors import InputError
from tests.harness.bench.samples import CELL, pair, results, row

SEEDS = st.integers(0, 2**32 - 1)


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
        assert not (effect.verdict == "no difference shown" and effect.is_slower_by(0.0))
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


def test_slower_by_more_than_allowed_only_where_the_whole_interval_says_so() -> None:
    effect = Effect(ratio=0.92, low=0.89, high=0.94, detectable=0.03, num_a=5, num_b=5)
    assert effect.verdict == "slower"
    assert effect.is_slower_by(0.05)
    assert not effect.is_slower_by(0.07)
    faster = dataclasses.replace(effect, ratio=1.1, low=1.05, high=1.2)
    assert faster.verdict == "faster"
    assert not faster.is_slower_by(0.0)


def test_processes_that_agree_to_the_bit() -> None:
    effect = unpaired_effect([100.0, 100.0], [90.0, 90.0, 90.0])
    assert (effect.low, effect.high) == (effect.ratio, effect.ratio)
    assert effect.ratio == pytest.approx(0.9)
    assert effect.detectable == pytest.approx(0.0)


def test_many_cells_share_the_confidence() -> None:
    assert shared_confidence(1) == pytest.approx(0.99)
    assert shared_confidence(10) == pytest.approx(0.999)


def test_results_are_compared_cell_by_cell() -> None:
    other = dataclasses.replace(CELL, batch_size=1000)
    lone = dataclasses.replace(CELL, batch_size=7)
    a = results(*(row(cell, r, 1e5 + r) for cell in (CELL, other) for r in range(5)), row(lone, 0))
    b = results(
        *(row(CELL, r, 0.9e5 + r, implementation="native") for r in range(5)),
        *(row(other, r, 1e5 + r) for r in range(4)),
        row(other, 4, None),
    )
    compared = compare(a, b, across_machines=False)
    assert [c.cell for c in compared.cells] == [CELL, other]
    first, second = compared.cells
    assert first.effect.verdict == "slower"
    assert second.effect.verdict == "no difference shown"
    assert (second.effect.num_a, second.effect.num_b) == (5, 4)
    assert first.notes == ("implementation is gather in A and native in B",)
    assert any("1 cells were not measured twice" in note for note in compared.notes)


def test_marks_and_other_settings_are_told() -> None:
    a = results(*(row(CELL, r) for r in range(2)))
    b = results(*(row(CELL, r, marks=("the machine slept for 3.0 s",)) for r in range(2)))
    b = dataclasses.replace(b, config={**b.config, "model": {"hidden_units": [9]}})
    compared = compare(a, b, across_machines=False)
    assert "B repeat 2: the machine slept for 3.0 s" in compared.cells[0].notes
    assert any(note.startswith("the model settings differ") for note in compared.notes)


def test_other_machines_are_refused_unless_told() -> None:
    a, b = results(row(CELL, 0), row(CELL, 1)), results(row(CELL, 0), row(CELL, 1))
    host = {**b.provenance.host, "cpu": "another"}
    b = dataclasses.replace(b, provenance=dataclasses.replace(b.provenance, host=host))
    with pytest.raises(InputError, match=r"B on another, .*--across-machines"):
        compare(a, b, across_machines=False)
    assert any("cpu is" in note for note in compare(a, b, across_machines=True).notes)


def test_nothing_in_common_is_an_error() -> None:
    other = dataclasses.replace(CELL, batch_size=1000)
    a, b = results(row(CELL, 0), row(CELL, 1)), results(row(other, 0), row(other, 1))
    with pytest.raises(InputError, match="no cell can be compared: A has 1, B has 1, both have 0"):
        compare(a, b, across_machines=False)


def test_pairs_are_compared_without_their_warm_up() -> None:
    steady = [-0.05, -0.05, -0.05]
    pairs = [pair(r, (2.0, *steady), num_warm_up=1) for r in range(4)]
    (compared,) = compare_pairs(pairs).cells
    assert compared.effect.ratio == pytest.approx(math.exp(-0.05))
    assert compared.effect.verdict == "slower"
    assert compare_pairs(pairs[:1]).cells == ()
