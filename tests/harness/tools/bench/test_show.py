"""A sweep as a table, a plot, and TensorBoard's HParams page, as the plugin itself reads it."""

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.tools.bench.show import draw, print_notes, print_table, summarize, write_hparams
from tests.harness.run.observers.tensorboard_app import TensorBoardApp
from tests.harness.tools.bench.samples import CELL, results, row


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
    """A damaged results file may hold a note that takes rich minutes to colour."""
    printed = io.StringIO()
    print_notes(["1" * 1_000_000], Console(file=printed))
    assert len(printed.getvalue()) <= 1_001


LARGE = dataclasses.replace(CELL, batch_size=4096)
NATIVE = dataclasses.replace(CELL, implementation="native")


@pytest.mark.parametrize(
    "rows",
    [
        [row(CELL, 0)],
        [row(CELL, 0), row(LARGE, 0, 3e5), row(LARGE, 1, 4e5)],
        [row(CELL, 0), row(LARGE, 0, None), row(NATIVE, 0)],
        [row(CELL, 0, None)],
    ],
)
def test_it_is_drawn(rows: list, tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    draw(results(*rows), path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]


def test_every_measured_cell_is_a_run_with_its_figures(tmp_path: Path) -> None:
    native = dataclasses.replace(CELL, implementation="native")
    too_large = dataclasses.replace(CELL, batch_size=8192)
    sweep = results(row(CELL, 0, 1e5), row(CELL, 1, 2e5), row(native, 0, 3e5))
    write_hparams(dataclasses.replace(sweep, rows=(*sweep.rows, row(too_large, 0, None))), tmp_path)

    experiment, cells = TensorBoardApp(tmp_path).hparams("STATUS_SUCCESS")
    columns = {info["name"]: info.get("differs", False) for info in experiment["hparamInfos"]}
    assert columns == {name: name == "implementation" for name in dataclasses.asdict(CELL)}
    # What `auto` came to, not `auto`.
    rates = {
        cell["hparams"]["implementation"]: cell["metrics"]["throughput/examples_per_second"]
        for cell in cells
    }
    assert rates == {"gather": pytest.approx(1.5e5), "native": pytest.approx(3e5)}
    for cell in cells:
        assert (cell["hparams"]["steps_per_dispatch"], cell["hparams"]["batch_size"]) == (20, 500)
        assert {"throughput/step_time_ms_p99", "host/rss_bytes"} < set(cell["metrics"])


def test_without_a_measured_cell_there_is_no_run(tmp_path: Path) -> None:
    write_hparams(results(row(CELL, 0, None)), tmp_path)
    assert list(tmp_path.iterdir()) == []
