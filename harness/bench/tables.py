"""A sweep as a table in the terminal: the repeats of each cell, summed up."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from harness.bench.results import AXES, Cell, Results, Row, varying
from harness.errors import printable

_MAX_NOTES = 12
_MAX_NOTE_CHARACTERS = 1000


def summarize(cell: Cell, rows: Sequence[Row]) -> Row:
    """The rows of `cell` among `rows` as one: medians over the successful repeats, the maximum of
    memory, the rest from the first of them. Where none was successful, the first row."""
    rows = [row for row in rows if row.cell == cell]
    good = [row for row in rows if row.figures is not None]
    if not good:
        return rows[0]
    return dataclasses.replace(
        good[0],
        figures=_median([row.figures for row in good]),
        compile_seconds=statistics.median(row.compile_seconds for row in good),
        peak_rss_bytes=max(row.peak_rss_bytes for row in good),
        peak_device_bytes=max(row.peak_device_bytes or 0 for row in good) or None,
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
    print_cells({cell: _line(summarize(cell, results.rows)) for cell in cells}, console)
    axes = varying(cells)
    console.out(printable(cells[0].label(axis for axis in AXES if axis not in axes)))
    notes = []
    for row in results.rows:
        failure = (f"{row.status}: {row.note}",) if row.note else ()
        where = f"{row.cell.label(axes)}, repeat {row.repeat + 1}"
        notes += [f"{where}: {note}" for note in (*failure, *row.marks)]
    print_notes(notes, console)


def _line(row: Row) -> dict[str, str]:
    """The most important columns first. Percentiles are of a step's time, GB of the peak memory."""
    if (figures := row.figures) is None:
        return {"examples/s": row.status}
    rate, device_bytes = figures.examples_per_second, row.peak_device_bytes
    return {
        "examples/s": f"{rate.median:,.0f}",
        "p20-p80": f"{rate.p20:,.0f}-{rate.p80:,.0f}",
        "steps/s": f"{figures.steps_per_second.median:,.1f}",
        "ms p50": f"{figures.step_time_ms_p50:.2f}",
        "p95": f"{figures.step_time_ms_p95:.2f}",
        "p99": f"{figures.step_time_ms_p99:.2f}",
        "GB": f"{row.peak_rss_bytes / 1e9:.2f}",
        "compile s": f"{row.compile_seconds:.1f}",
        **({"GPU GB": f"{device_bytes / 1e9:.2f}"} if device_bytes is not None else {}),
    }


def print_cells(lines: Mapping[Cell, Mapping[str, str]], console: Console) -> None:
    """Prints a line for each cell: the axes on which the cells differ, then as many of its columns
    as the width has room for, the first at least."""
    axes = varying(list(lines))
    headings = list(dict.fromkeys(heading for line in lines.values() for heading in line))
    table = [[axis.replace("_", " ") for axis in axes] + headings]
    for cell, line in lines.items():
        values = [str(getattr(cell, axis)) for axis in axes]
        table.append(values + [line.get(heading, "") for heading in headings])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    ends = itertools.accumulate(width + 1 for width in widths)
    shown = max(len(axes) + 1, sum(end <= console.width + 1 for end in ends))
    for texts in table:
        columns = zip(texts[:shown], widths, strict=False)
        aligned = " ".join(f"{text:>{width}}" for text, width in columns)
        console.out(printable(aligned, one_line=True))


def print_notes(notes: Sequence[str], console: Console) -> None:
    """Prints the first notes, and how many there are besides."""
    for note in notes[:_MAX_NOTES]:
        console.out(printable(note, most=_MAX_NOTE_CHARACTERS))
    if len(notes) > _MAX_NOTES:
        console.print(f"and {len(notes) - _MAX_NOTES} more notes in the results")
