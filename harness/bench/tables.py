"""A sweep as a table in the terminal: the repeats of each cell, summed up."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.bench.results import AXES, Cell, Figures, Results, Row, varying

_GAP = "  "
_MAX_NOTES = 12


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """One cell over its repeats. Figures are medians over the successful repeats, memory is the
    maximum."""

    cell: Cell
    figures: Figures | None
    """None where no repeat was successful."""
    resolved: Mapping[str, Any]
    """Of the first successful repeat."""
    compile_seconds: float
    peak_rss_bytes: int
    peak_device_bytes: int | None
    device_utilization_percent: float | None
    notes: tuple[str, ...]
    """Why repeats failed, and what makes others doubtful."""


def summarize(cell: Cell, rows: Sequence[Row]) -> CellSummary:
    """Sums up the rows of `cell` among `rows`."""
    rows = [row for row in rows if row.cell == cell]
    good = [row for row in rows if row.figures is not None]
    notes = [f"{row.status}: {row.note}" for row in rows if row.note]
    notes += [f"repeat {row.repeat + 1}: {mark}" for row in rows for mark in row.marks]
    device_bytes = [r.peak_device_bytes for r in good if r.peak_device_bytes is not None]
    busy = [r.device_utilization_percent for r in good if r.device_utilization_percent is not None]
    return CellSummary(
        cell=cell,
        figures=_median([row.figures for row in good]) if good else None,
        resolved=good[0].resolved if good else {},
        compile_seconds=statistics.median(r.compile_seconds for r in good) if good else 0.0,
        peak_rss_bytes=max((row.peak_rss_bytes for row in good), default=0),
        peak_device_bytes=max(device_bytes, default=None),
        device_utilization_percent=statistics.median(busy) if busy else None,
        notes=tuple(dict.fromkeys(notes)),
    )


def _median(records: Sequence[Any]) -> Any:
    """The median of numbers; of records, field by field."""
    if isinstance(records[0], float):
        return statistics.median(records)
    names = [field.name for field in dataclasses.fields(records[0])]
    medians = {name: _median([getattr(record, name) for record in records]) for name in names}
    return dataclasses.replace(records[0], **medians)


def print_table(results: Results, console: Console) -> None:
    """Prints a line for each cell, the settings that all share, and every note."""
    cells = results.cells
    summaries = [summarize(cell, results.rows) for cell in cells]
    print_columns(cells, _columns(summaries), console)
    axes = varying(cells)
    console.print(Text(cells[0].label(axis for axis in AXES if axis not in axes)), soft_wrap=True)
    print_notes([f"{s.cell.label(axes)}: {note}" for s in summaries for note in s.notes], console)


def _columns(summaries: Sequence[CellSummary]) -> dict[str, list[str]]:
    """The most important columns first. Percentiles are of a step's time, GB of the peak memory."""
    lines = [_line(summary) for summary in summaries]
    headings = dict.fromkeys(heading for line in lines for heading, text in line.items() if text)
    return {heading: [line.get(heading, "") for line in lines] for heading in headings}


def _line(summary: CellSummary) -> dict[str, str]:
    if (figures := summary.figures) is None:
        return {"examples/s": summary.notes[0].partition(":")[0]}
    rate = figures.examples_per_second
    memory, busy = summary.peak_device_bytes, summary.device_utilization_percent
    return {
        "examples/s": f"{rate.median:,.0f}",
        "p20-p80": f"{_short(rate.p20)}-{_short(rate.p80)}",
        "steps/s": f"{figures.steps_per_second.median:,.1f}",
        "ms p50": f"{figures.step_time_ms_p50:.2f}",
        "p95": f"{figures.step_time_ms_p95:.2f}",
        "p99": f"{figures.step_time_ms_p99:.2f}",
        "GB": f"{summary.peak_rss_bytes / 1e9:.2f}",
        "GPU GB": "" if memory is None else f"{memory / 1e9:.2f}",
        "GPU busy": "" if busy is None else f"{busy:.0f} %",
        "compile s": f"{summary.compile_seconds:.1f}",
    }


def _short(rate: float) -> str:
    if rate < 1e3:
        return f"{rate:.0f}"
    return f"{rate / 1e3:.1f}k" if rate < 1e5 else f"{rate / 1e3:,.0f}k"


def print_columns(
    cells: Sequence[Cell], columns: Mapping[str, Sequence[str]], console: Console
) -> None:
    """Prints a line for each cell: the axes on which the cells differ, then as many of the columns
    as fit into the terminal without wrapping. A line below names the others."""
    axes = {
        "batch" if axis == "batch_size" else axis.replace("_", " "): [
            str(getattr(cell, axis)) for cell in cells
        ]
        for axis in varying(cells)
    }
    lines = [""] * (len(cells) + 1)
    left_out: list[str] = []
    for heading, values in [*axes.items(), *columns.items()]:
        width = max(map(len, (heading, *values)))
        gap = _GAP if lines[0] else ""
        if heading in axes or (not left_out and len(lines[0]) + len(gap) + width <= console.width):
            texts = (heading, *values)
            lines = [f"{a}{gap}{b:>{width}}" for a, b in zip(lines, texts, strict=True)]
        else:
            left_out.append(heading)
    for line in lines:
        console.print(Text(line.rstrip()), soft_wrap=True)
    if left_out:
        console.print(
            f"({console.width} columns have no room for: {', '.join(left_out)})", soft_wrap=True
        )


def print_notes(notes: Sequence[str], console: Console) -> None:
    """Prints the first notes, and how many there are besides."""
    for note in notes[:_MAX_NOTES]:
        console.print(Text(note), soft_wrap=True)
    if len(notes) > _MAX_NOTES:
        console.print(f"and {len(notes) - _MAX_NOTES} more notes in the results")
