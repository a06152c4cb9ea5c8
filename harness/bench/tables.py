"""A sweep as a table in the terminal: the repeats of each cell, summed up."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

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
    device_bytes = [r.peak_device_bytes for r in good if r.peak_device_bytes is not None]
    busy = [r.device_utilization_percent for r in good if r.device_utilization_percent is not None]
    return dataclasses.replace(
        good[0],
        figures=_median([row.figures for row in good]),
        compile_seconds=statistics.median(row.compile_seconds for row in good),
        peak_rss_bytes=max(row.peak_rss_bytes for row in good),
        peak_device_bytes=max(device_bytes, default=None),
        device_utilization_percent=statistics.median(busy) if busy else None,
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
    rate = figures.examples_per_second
    columns = {
        "examples/s": f"{rate.median:,.0f}",
        "p20-p80": f"{rate.p20:,.0f}-{rate.p80:,.0f}",
        "steps/s": f"{figures.steps_per_second.median:,.1f}",
        "ms p50": f"{figures.step_time_ms_p50:.2f}",
        "p95": f"{figures.step_time_ms_p95:.2f}",
        "p99": f"{figures.step_time_ms_p99:.2f}",
        "GB": f"{row.peak_rss_bytes / 1e9:.2f}",
        "compile s": f"{row.compile_seconds:.1f}",
    }
    if row.peak_device_bytes is not None:
        columns["GPU GB"] = f"{row.peak_device_bytes / 1e9:.2f}"
    if row.device_utilization_percent is not None:
        columns["GPU busy"] = f"{row.device_utilization_percent:.0f} %"
    return columns


def print_cells(lines: Mapping[Cell, Mapping[str, str]], console: Console) -> None:
    """Prints a line for each cell: the axes on which the cells differ, then as many of its columns
    as the width has room for, the first at least. No text is cut short."""
    axes = varying(list(lines))
    headings = list(dict.fromkeys(heading for line in lines.values() for heading in line))
    unlimited = console.options.update(width=1_000)
    while True:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for heading in [axis.replace("_", " ") for axis in axes] + headings:
            table.add_column(heading, justify="right", no_wrap=True)
        for cell, line in lines.items():
            values = [printable(str(getattr(cell, axis)), one_line=True) for axis in axes]
            table.add_row(*values, *(line.get(heading, "") for heading in headings))
        table.width = Measurement.get(console, unlimited, table).maximum
        if table.width <= console.width or len(headings) == 1:
            console.print(table, soft_wrap=True)
            return
        headings.pop()


def print_notes(notes: Sequence[str], console: Console) -> None:
    """Prints the first notes, and how many there are besides."""
    for note in notes[:_MAX_NOTES]:
        console.out(printable(note, most=_MAX_NOTE_CHARACTERS))
    if len(notes) > _MAX_NOTES:
        console.print(f"and {len(notes) - _MAX_NOTES} more notes in the results")
