"""A sweep as a table in the terminal."""

import dataclasses
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.bench.rows import Cell, Results
from harness.bench.summary import CellSummary, summarize

_HEADINGS = ("examples/s", "p20 - p80", "steps/s", "ms p50", "p95", "p99", "comp. s", "GB")
"""Percentiles are of a step's time; GB of the peak of resident memory."""
_MAX_NOTES = 12


def varying(cells: Sequence[Cell]) -> list[str]:
    """The axes on which the cells differ, batch size always among them."""
    names = [field.name for field in dataclasses.fields(Cell)]
    return [n for n in names if n == "batch_size" or len({getattr(c, n) for c in cells}) > 1]


def print_table(results: Results, console: Console) -> None:
    """Prints a line for each cell, what the others have in common, and every note."""
    cells = results.cells
    axes = varying(cells)
    summaries = [summarize(cell, results.rows) for cell in cells]
    with_device = any(s.peak_device_bytes is not None for s in summaries)
    table = Table(box=SIMPLE, padding=0, pad_edge=False, show_edge=False)
    for axis in axes:
        # What tells the cells apart is never cut short; figures wrap where space is scarce.
        widest = max(len(str(getattr(cell, axis))) for cell in cells)
        table.add_column(axis.replace("_", " "), justify="right", min_width=widest)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", overflow="fold")
    if with_device:
        table.add_column("on device", justify="right")
        table.add_column("GPU busy", justify="right")
    for summary in summaries:
        values = [str(getattr(summary.cell, axis)) for axis in axes]
        table.add_row(*values, *_figures(summary), *(_device(summary) if with_device else ()))
    console.print(table)
    common = [f.name for f in dataclasses.fields(Cell) if f.name not in axes]
    console.print(Text(cells[0].label(common)))
    _print_notes(summaries, axes, console)


def _figures(summary: CellSummary) -> list[str]:
    figures = summary.figures
    if figures is None:
        return [summary.notes[0].partition(":")[0]]
    rate = figures.examples_per_second
    return [
        f"{rate.median:,.0f}",
        f"{_short(rate.p20)}-{_short(rate.p80)}",
        f"{figures.steps_per_second.median:,.1f}",
        f"{figures.step_time_ms_p50:.2f}",
        f"{figures.step_time_ms_p95:.2f}",
        f"{figures.step_time_ms_p99:.2f}",
        f"{summary.compile_seconds:.1f}",
        f"{summary.peak_rss_bytes / 1e9:.2f}",
    ]


def _short(rate: float) -> str:
    if rate < 1e3:
        return f"{rate:.0f}"
    return f"{rate / 1e3:.1f}k" if rate < 1e5 else f"{rate / 1e3:,.0f}k"


def _device(summary: CellSummary) -> list[str]:
    memory, busy = summary.peak_device_bytes, summary.device_utilization_percent
    return [
        "" if memory is None else f"{memory / 1e9:.2f} GB",
        "" if busy is None else f"{busy:.0f} %",
    ]


def _print_notes(summaries: Sequence[CellSummary], axes: Sequence[str], console: Console) -> None:
    notes = [f"{summary.cell.label(axes)}: {n}" for summary in summaries for n in summary.notes]
    for note in notes[:_MAX_NOTES]:
        console.print(Text(note), soft_wrap=True)
    if len(notes) > _MAX_NOTES:
        console.print(f"and {len(notes) - _MAX_NOTES} notes more in the results file")
