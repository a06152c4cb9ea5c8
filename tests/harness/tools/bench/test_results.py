"""What the rows of a sweep come to, and how it is shown and read back."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from harness.base.errors import InputError
from harness.tools.bench.files import write_files
from harness.tools.bench.measure import cells
from harness.tools.bench.results import (
    RESULTS_FORMAT,
    Row,
    csv_text,
    markdown,
    median_interval,
    print_sweep,
    read_results,
    summarized,
)
from tests.harness.tools.bench.samples import CELL, row

PROVENANCE = {"machine": "a CPU, 2 cores", "versions": {"commit": "0123456789abcdef"}}
OTHER = dataclasses.replace(CELL, batch_size=1000)
TOO_LARGE = dataclasses.replace(CELL, batch_size=9999)


def sweep() -> list[Row]:
    rows = [row(CELL, n, rate) for n, rate in enumerate([1e5, 1.1e5, 1.2e5, 0.9e5, 1e5])]
    rows += [row(OTHER, n, 2e5) for n in range(5)]
    return [*rows, Row(cell=TOO_LARGE, repeat=0, note="skipped: too few | rows")]


@pytest.mark.parametrize("num", [1, 2, 5, 20])
def test_an_interval_of_the_median_holds_it_as_often_as_it_says(num: int) -> None:
    rng = np.random.default_rng(num)
    hits = 0
    for sample in rng.lognormal(size=(1000, num)):  # whose median is 1
        low, high, confidence = median_interval(sample.tolist())
        hits += low <= 1 <= high
    assert confidence >= 0.9 or low == sample.min()
    assert hits / 1000 >= confidence - 0.03


def test_a_cell_has_the_median_of_its_processes_and_an_interval() -> None:
    lines = summarized(sweep())
    figures = lines[CELL]
    assert figures["examples_per_second"] == pytest.approx(1e5)
    assert (figures["low"], figures["high"]) == pytest.approx((0.9e5, 1.2e5))
    assert figures["confidence"] == 0.9375
    assert lines[TOO_LARGE] == {"note": "skipped: too few | rows"}
    for cell in (CELL, OTHER):
        rates = lines[cell]["steps_per_second"], lines[cell]["examples_per_second"]
        assert rates[0] * cell.batch_size == pytest.approx(rates[1])


def test_a_process_is_told_in_a_line() -> None:
    measured = row(CELL, 0, 1e5)
    assert measured.line == "100,000 examples/s"
    assert dataclasses.replace(measured, ratio=0.5).line == "100,000 examples/s; B / A 0.500"
    warned = row(CELL, 0, 1e5, warnings=["few rows"])
    assert warned.line == "100,000 examples/s; few rows"
    assert row(CELL, 0, None).line == "it ended"
    same = Row(cell=OTHER, repeat=0, same_as=CELL)
    assert same.line == "the same program as with batch size 500, measured once"


@pytest.mark.parametrize("weak", [True, False])
def test_replicas_have_a_speed_up_and_an_efficiency(weak: bool) -> None:
    axes = {name: (value,) for name, value in vars(CELL).items()}
    grid = cells({**axes, "replicas": (1, 2, 4), "weak": weak})
    assert [cell.batch_size for cell in grid] == ([500, 1000, 2000] if weak else [500] * 3)
    rates = [1e5 * int(cell.replicas) ** 0.5 for cell in grid]
    pairs = zip(grid, rates, strict=True)
    rows = [row(cell, 0, rate, devices=["/GPU:0 a card"]) for cell, rate in pairs]
    lines = summarized(rows, weak=weak)
    assert [lines[cell]["speed_up"] for cell in grid] == pytest.approx([1, 2**0.5, 2])
    assert [lines[cell]["efficiency"] for cell in grid] == pytest.approx([1, 0.5**0.5, 0.5])


def test_a_sweep_is_shown_in_a_terminal_and_as_markdown_and_csv(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = summarized(sweep())
    print_sweep(lines, Console(width=80))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[:6] == ["batch", "size", "examples/s", "interval", "mean", "steps/s"]
    assert shown[3].strip() == "9999  skipped: too few | rows"
    assert max(map(len, shown[:8])) <= 80
    text = markdown(lines, PROVENANCE)
    assert "a CPU, 2 cores, commit 0123456789ab" in text
    assert "| 500 | 100,000 | 90,000-120,000 |" in text
    assert "| 9999 | skipped: too few \\| rows |" in text
    table = {int(one["batch_size"]): one for one in csv.DictReader(io.StringIO(csv_text(lines)))}
    assert float(table[1000]["examples_per_second"]) == pytest.approx(2e5)
    assert table[9999]["note"].startswith("skipped: ")


def test_results_are_read_back(tmp_path: Path) -> None:
    path, rows = tmp_path / "results.json", sweep()
    rows[0] = dataclasses.replace(rows[0], stretches=((500.0, 0.05, 0.0),), clock_seconds=0.06)
    rows.append(Row(cell=OTHER, repeat=5, same_as=CELL))
    content: dict[str, Any] = {"format": RESULTS_FORMAT, "rows": [*map(dataclasses.asdict, rows)]}
    path.write_text(json.dumps(content))
    assert read_results(path)[1] == rows
    for wrong in (content | {"format": "another 9"}, content | {"rows": [{"cell": 1}]}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=r"results\.json"):
            read_results(path)


def test_a_sweep_leaves_a_table_a_plot_and_pages_for_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert write_files(tmp_path, summarized(sweep())) == []
    assert (tmp_path / "results.csv").read_text().startswith("batch_size,")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    curves = EventAccumulator(str(tmp_path / "tensorboard" / "all")).Reload()
    assert [e.step for e in curves.Tensors("sweep/examples_per_second")] == [500, 1000]
    own = EventAccumulator(str(tmp_path / "tensorboard" / "cells" / "batch size 500")).Reload()
    assert "_hparams_/session_start_info" in own.summary_metadata
