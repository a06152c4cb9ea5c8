"""A sweep as a table in the terminal, as a plot, and as TensorBoard's HParams page."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.base.errors import printable
from harness.base.quiet import quiet_import
from harness.tools.bench.results import AXES, Cell, Figures, Results, Row, varying
from kernels.files import replacing

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
    parts = {name: _median([getattr(r, name) for r in records]) for name in vars(records[0])}
    return type(records[0])(**parts)


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


def draw(results: Results, path: Path) -> None:
    """Writes a PNG: a line for each combination of the other axes, medians with p20 to p80. Cells
    that failed or ran out of memory have no point."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    rates, times = figure.subplots(1, 2)
    others = [axis for axis in varying(results.cells) if axis != "batch_size"]
    lines: dict[str, dict[int, Figures]] = {}
    for cell in sorted(results.cells):
        if (figures := summarize(cell, results.rows).figures) is not None:
            lines.setdefault(cell.label(others), {})[cell.batch_size] = figures
    sizes = sorted({cell.batch_size for cell in results.cells})
    for axes, names, title in (
        (
            rates,
            [f"examples_per_second.{name}" for name in ("median", "p20", "p80")],
            "examples/s in training (median, p20 to p80)",
        ),
        (
            times,
            [f"step_time_ms_{name}" for name in ("p50", "p50", "p95")],
            "ms of a step (p50 to p95)",
        ),
    ):
        for label, points in lines.items():
            middle, low, high = ([attrgetter(n)(f) for f in points.values()] for n in names)
            (line,) = axes.plot(list(points), middle, marker="o", label=label)
            axes.fill_between(list(points), low, high, alpha=0.2, color=line.get_color())
        axes.set(title=title, xlabel="batch size", xscale="log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
    rates.set_ylim(bottom=0)
    times.set_yscale("log" if lines else "linear")  # a logarithmic axis needs data
    if others and lines:
        rates.legend(fontsize="small")
    provenance = results.provenance
    common = results.cells[0].label(axis for axis in AXES if axis not in ("batch_size", *others))
    about = f"{provenance.dataset['name']} on {provenance.machine}; {common}"
    figure.suptitle(about, fontsize="small")
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


_SCALARS = {
    "throughput/examples_per_second": "figures.examples_per_second.median",
    "throughput/steps_per_second": "figures.steps_per_second.median",
    "throughput/step_time_ms_p50": "figures.step_time_ms_p50",
    "throughput/step_time_ms_p95": "figures.step_time_ms_p95",
    "throughput/step_time_ms_p99": "figures.step_time_ms_p99",
    "throughput/data_wait_fraction": "figures.data_wait_fraction",
    "host/rss_bytes": "peak_rss_bytes",
    "compile_seconds": "compile_seconds",
}
"""Tags, and where a `Row` has their values."""


def write_hparams(results: Results, folder: Path) -> None:
    """Writes an event file for each measured cell, each into its own folder below `folder`. The
    settings are columns to filter and sort by, each `auto` replaced by what it came to."""
    with quiet_import():  # here: TensorFlow takes memory that the cells should have had
        from harness.run.observers.tensorboard_pages import write_hparams_row

    for cell in results.cells:
        if (summary := summarize(cell, results.rows)).figures is None:
            continue
        name = "-".join(str(getattr(cell, axis)) for axis in AXES)
        texts = {axis: str(summary.resolved[axis]) for axis in AXES}
        settings = {axis: int(t) if t.isdigit() else t for axis, t in texts.items()}
        scalars = {tag: float(attrgetter(at)(summary)) for tag, at in _SCALARS.items()}
        write_hparams_row(folder / name, settings, [(0, scalars)])
