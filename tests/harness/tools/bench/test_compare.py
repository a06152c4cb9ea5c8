"""Effects on simulated processes are found, unless they are noise; a gate judges them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from harness.tools.bench.compare import CONFIDENCE, Effect, compare, paired_effect, report
from harness.tools.bench.results import Cell, Row
from tests.harness.tools.bench.samples import CELL, row

SEEDS = st.integers(0, 2**32 - 1)


def rates(seed: int, num: int, *, centre: float = 1e5, deviation: float = 0.01) -> list[float]:
    normal = np.random.default_rng(seed).normal(0, deviation, num)
    return (centre * np.exp(normal)).tolist()


@pytest.mark.parametrize("num", [2, 5, 20])
@pytest.mark.parametrize("skewed", [True, False])
def test_noise_is_seldom_an_effect(num: int, skewed: bool) -> None:
    rng = np.random.default_rng(0)
    alarms, trials = 0, 300
    for _ in range(trials):
        noise = rng.gamma(1, 0.02, (2, num)) if skewed else rng.normal(0, 0.02, (2, num))
        a, b = np.exp(noise)
        effect = paired_effect(b / a, 0.99)
        alarms += effect.verdict != "no difference shown"
        assert (effect.verdict == "slower") == (effect.gate(0.0) == "failed")
    assert alarms <= 8  # 1 % are expected; more than 8 of 300 have a probability of 0.4 %


@pytest.mark.parametrize(("num", "deviation"), [(5, 0.01), (10, 0.02)])
def test_a_slowdown_of_five_percent_is_found(num: int, deviation: float) -> None:
    rng = np.random.default_rng(1)
    samples = 0.95 * np.exp(rng.normal(0, deviation, (200, num)))
    verdicts = [paired_effect(ratios, CONFIDENCE).verdict for ratios in samples]
    assert verdicts.count("slower") > 150


def test_the_interval_of_a_few_pairs_is_that_of_a_t_test() -> None:
    ratios = rates(0, 5)
    low, high = stats.ttest_1samp(np.log(ratios), 0).confidence_interval(0.99)
    effect = paired_effect(ratios, 0.99)
    np.testing.assert_allclose([effect.low, effect.high], np.exp([low, high]))


@settings(max_examples=40)
@given(seed=SEEDS, unlucky=st.floats(0.4, 2.5))
def test_one_unlucky_pair_of_ten_hides_no_difference(seed: int, unlucky: float) -> None:
    ratios = rates(seed, 9, centre=0.95, deviation=0.005)
    effect = paired_effect([*ratios, unlucky], CONFIDENCE)
    assert effect.verdict == "slower"
    assert effect.ratio == pytest.approx(0.95, rel=0.01)


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
    effect = Effect((low + high) / 2, low, high)
    assert (effect.verdict, effect.gate(allowed)) == (verdict, gate)


def pairs(cell: Cell, ratios: Sequence[float], **resolved: str) -> list[Row]:
    """Returns the rows of both sides of pairs of processes."""
    a, b = ([row(cell, n, **of) for n in range(len(ratios))] for of in ({}, resolved))
    of_a = [dataclasses.replace(one, side="A") for one in a]
    of_b = [dataclasses.replace(one, ratio=r) for one, r in zip(b, ratios, strict=True)]
    return of_a + of_b


def test_results_are_compared_cell_by_cell() -> None:
    other = dataclasses.replace(CELL, batch_size=1000)
    lone = dataclasses.replace(CELL, batch_size=7)
    effects, notes = compare(
        [
            *pairs(CELL, [0.9, 0.901, 0.902, 0.9, 0.9], implementation="native"),
            *pairs(other, [1.0, 1.01, 0.99]),
            *[row(other, 4, None), *pairs(lone, [1.0])],
        ]
    )
    assert [effect.verdict for effect in effects.values()] == ["slower", "no difference shown"]
    assert list(effects) == [CELL, other]
    assert "batch size 500: implementation is gather in A and native in B" in notes
    assert any(note.startswith("batch size 7") and "not measured 3 times" in note for note in notes)


def test_sweeps_that_did_not_take_turns_are_compared_as_well() -> None:
    a, b = rates(2, 5), rates(3, 5, centre=0.8e5)
    rows = [dataclasses.replace(row(CELL, n, rate), side="A") for n, rate in enumerate(a)]
    (effect,) = compare([*rows, *(row(CELL, n, rate) for n, rate in enumerate(b))])[0].values()
    low, high = stats.ttest_ind(np.log(b), np.log(a), equal_var=False).confidence_interval(0.99)
    np.testing.assert_allclose([effect.low, effect.high], np.exp([low, high]))
    assert effect.verdict == "slower"


def test_many_cells_share_the_confidence() -> None:
    """A large grid raises no more false alarms than a small one."""
    ratios = (0.97, 0.96, 0.95, 0.96)
    cells = [CELL, *(dataclasses.replace(CELL, batch_size=size) for size in range(1, 10))]
    alone = compare(pairs(CELL, ratios))[0][CELL]
    one_of_ten = compare([one for cell in cells for one in pairs(cell, ratios)])[0][CELL]
    assert (alone.verdict, one_of_ten.verdict) == ("slower", "no difference shown")
    assert alone.ratio == one_of_ten.ratio == pytest.approx(0.96, abs=1e-3)


@pytest.mark.parametrize(
    ("ratio", "allowed", "fails", "code"),
    [
        *[(0.9, "5%", False, 1), (0.9, "15%", False, 0), (1.2, "5%", False, 0)],
        *[(0.9, "0%", True, 1), (1.0, "0%", True, 3), (1.0, "0%", False, 0)],
    ],
)
def test_the_exit_code_of_a_gate(
    ratio: float, allowed: str, fails: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pairs(CELL, [ratio + 0.001 * n for n in (-1, 0, 1)])
    rows += pairs(dataclasses.replace(CELL, batch_size=1000), [1.1, 1.101, 1.102])
    assert report(*compare(rows), Console(), allowed, fails) == code
    printed = capsys.readouterr().out
    assert ("failed: B is slower than A by more than" in printed) == (code == 1)
