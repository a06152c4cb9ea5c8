"""Results are compared cell by cell, and a gate tells a slowdown from a lack of data."""

import dataclasses
import math

import pytest
from rich.console import Console

from harness.base.errors import InputError
from harness.tools.bench.compare import compare, compare_pairs, judge, print_comparison
from tests.harness.tools.bench.samples import CELL, pair, results, row


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
    assert list(compared.effects) == [CELL, other]
    first, second = compared.effects.values()
    assert first.verdict == "slower"
    assert second.verdict == "no difference shown"
    assert (second.num_a, second.num_b) == (5, 4)
    assert "batch size 500: implementation is gather in A and native in B" in compared.notes
    assert any("1 cells were not measured twice" in note for note in compared.notes)


def test_marks_and_other_settings_are_told() -> None:
    a = results(*(row(CELL, r) for r in range(2)))
    b = results(*(row(CELL, r, marks=("the machine slept for 3.0 s",)) for r in range(2)))
    b = dataclasses.replace(b, config={**b.config, "model": {"hidden_units": [9]}})
    compared = compare(a, b, across_machines=False)
    assert "batch size 500: B repeat 2: the machine slept for 3.0 s" in compared.notes
    assert any(note.startswith("the model settings differ") for note in compared.notes)


def test_other_machines_are_refused_unless_told() -> None:
    a, b = results(row(CELL, 0), row(CELL, 1)), results(row(CELL, 0), row(CELL, 1))
    host = {**b.provenance.host, "cpu": "another"}
    b = dataclasses.replace(b, provenance=dataclasses.replace(b.provenance, host=host))
    with pytest.raises(InputError, match=r"B on another, .*--across-machines"):
        compare(a, b, across_machines=False)
    assert any("cpu is" in note for note in compare(a, b, across_machines=True).notes)


def test_many_cells_share_the_confidence() -> None:
    """A large grid raises no more false alarms than a small one."""
    pairs = [pair(r, (ratio,)) for r, ratio in enumerate((-0.02, -0.03, -0.04, -0.03))]
    others = [
        dataclasses.replace(one, cell=dataclasses.replace(CELL, batch_size=size))
        for size in range(1, 10)
        for one in pairs
    ]
    alone, one_of_ten = compare_pairs(pairs), compare_pairs([*pairs, *others])
    assert alone.effects[CELL].verdict == "slower"
    assert one_of_ten.effects[CELL].verdict == "no difference shown"
    assert one_of_ten.effects[CELL].ratio == alone.effects[CELL].ratio


def test_nothing_in_common_is_an_error() -> None:
    other = dataclasses.replace(CELL, batch_size=1000)
    a, b = results(row(CELL, 0), row(CELL, 1)), results(row(other, 0), row(other, 1))
    with pytest.raises(InputError, match="no cell was measured at least twice in both"):
        compare(a, b, across_machines=False)


def test_pairs_are_compared_without_their_warm_up() -> None:
    steady = [-0.05] * 4
    pairs = [pair(r, (2.0, *steady)) for r in range(4)]
    (effect,) = compare_pairs(pairs).effects.values()
    assert effect.ratio == pytest.approx(math.exp(-0.05))
    assert effect.verdict == "slower"
    assert compare_pairs(pairs[:1]).effects == {}


@pytest.mark.parametrize(
    ("log_ratios", "fail_if_inconclusive", "code", "words"),
    [
        ((-0.1, -0.1, -0.1), True, 1, "failed: B is slower than A by more than 5%: batch size 500"),
        ((0.0, 0.0, 0.0), True, 0, "passed: no cell is slower by more than 5%"),
        ((-0.4, 0.0, 0.4), True, 3, "inconclusive: B may or may not be slower than A by more"),
        ((-0.4, 0.0, 0.4), False, 0, "more --repeats or longer --seconds"),
    ],
)
def test_a_gate_tells_inconclusive_apart(
    log_ratios: tuple[float, ...],
    fail_if_inconclusive: bool,
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    comparison = compare_pairs([pair(r, (ratio,)) for r, ratio in enumerate(log_ratios)])
    gate = {"fail_if_slower": "5%", "fail_if_inconclusive": fail_if_inconclusive}
    assert judge(comparison, Console(), **gate) == code
    assert words in capsys.readouterr().out
    assert judge(comparison, Console(), fail_if_slower=None, fail_if_inconclusive=False) == 0
    assert capsys.readouterr().out == ""


def test_a_comparison_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [dataclasses.replace(CELL, implementation=name) for name in ("gather", "native")]
    measured = results(*(row(cell, r, 1e5 + r) for cell in cells for r in range(2)))
    print_comparison(compare(measured, measured, across_machines=False), Console(width=80))
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.startswith("batch size implementation B / A")
    assert [line.split()[:3] for line in lines[:2]] == [
        ["500", "gather", "1.000"],
        ["500", "native", "1.000"],
    ]
    assert all("no difference shown     2 + 2" in line for line in lines[:2])
