"""The sweep's table: repeats are summed up, and no line wraps."""

import dataclasses
import io

import pytest
from rich.console import Console

from harness.bench.tables import print_notes, print_table, summarize
from tests.harness.bench.samples import CELL, results, row


def test_a_cell_is_the_median_of_its_successful_repeats() -> None:
    rows = [row(CELL, r, rate) for r, rate in enumerate((1e5, None, 3e5, 1.2e5))]
    summary = summarize(CELL, rows)
    assert summary.figures is not None
    assert summary.figures.examples_per_second.median == pytest.approx(1.2e5)
    assert summary.figures.step_time_ms_p50 == pytest.approx(1e3 * 500 / 1.2e5)
    assert summarize(CELL, rows[1:2]).figures is None


@pytest.mark.parametrize(("width", "last"), [(40, "examples/s"), (80, "p99"), (200, "s")])
def test_no_line_wraps_or_is_cut_short(
    width: int, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    native = dataclasses.replace(CELL, implementation="native")
    large = dataclasses.replace(CELL, batch_size=65_536)
    cells = (CELL, native, large)
    measured = [row(cell, 0, None if cell is large else 123_456.0) for cell in cells]
    print_table(results(*measured), Console(width=width))
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["batch", "size", "implementation", "examples/s"]
    assert heading.split()[-1] == last
    assert len(heading.rstrip()) <= width
    assert [line.split()[:3] for line in lines[:2]] == [
        ["500", "auto", "123,456"],
        ["500", "native", "123,456"],
    ]
    assert lines[2].split() == ["65536", "auto", "out", "of", "memory"]
    assert "batch size 65536, implementation auto, repeat 1: out of memory: none left" in lines


def test_a_note_of_any_length_is_cut() -> None:
    """A damaged results file may hold one that takes rich minutes to colour."""
    printed = io.StringIO()
    print_notes(["1" * 1_000_000], Console(file=printed))
    assert len(printed.getvalue()) <= 1_001
