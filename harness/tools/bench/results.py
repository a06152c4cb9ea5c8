"""The results of a benchmark: a JSON file, and a table in the terminal."""

import dataclasses
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console

from harness.base.errors import printable

RESULTS_FILE_NAME = "results.json"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A point of the grid: the values of the settings that a sweep varies, as asked for."""

    batch_size: int
    implementation: str
    precision: str
    input: str
    replicas: int | str
    steps_per_dispatch: int | str

    def label(self, axes: Iterable[str]) -> str:
        """Returns the values on some axes, as in `batch size 500, precision float32`."""
        return ", ".join(f"{axis.replace('_', ' ')} {getattr(self, axis)}" for axis in axes)


AXES = tuple(axis.name for axis in dataclasses.fields(Cell))


def varying(cells: Collection[Cell]) -> list[str]:
    """Returns the batch size and the other axes on which the cells differ."""
    return [n for n in AXES if n == "batch_size" or len({getattr(c, n) for c in cells}) > 1]


@dataclass(frozen=True, kw_only=True)
class Row:
    cell: Cell
    repeat: int
    side: Literal["A", "B"] = "B"  # the side of a comparison; B without one
    note: str = ""  # the reason why there are no figures, or nothing
    resolved: Mapping[str, Any] = field(default_factory=dict)  # with devices, without `auto`
    figures: Mapping[str, float] = field(default_factory=dict)  # by `figures` in measure.py
    ratio: float | None = None  # B's examples/s over A's, which it took turns with

    @property
    def line(self) -> str:
        if not self.figures:
            return self.note
        parts = [f"{self.figures['examples_per_second']:,.0f} examples/s"]
        if self.ratio is not None:
            parts.append(f"B / A {self.ratio:.3f}")
        return "; ".join([*parts, *self.resolved.get("warnings", ())])


def print_table(rows: Sequence[Row], console: Console) -> None:
    lines = {}
    for cell in dict.fromkeys(row.cell for row in rows):
        good = [row.figures for row in rows if row.cell == cell and row.figures]
        lines[cell] = {"examples/s": "failed"}
        if good:
            lines[cell] = _line({n: statistics.median(one[n] for one in good) for n in good[0]})
    print_cells(lines, console)


def _line(figures: Mapping[str, float]) -> dict[str, str]:
    low, high = figures["examples_per_second_p20"], figures["examples_per_second_p80"]
    line = {
        "examples/s": f"{figures['examples_per_second']:,.0f}",
        "p20-p80": f"{low:,.0f}-{high:,.0f}",
        "steps/s": f"{figures['steps_per_second']:,.1f}",
        "ms": f"{figures['step_time_ms_p50']:.2f}",
        "GB": f"{figures['peak_rss_bytes'] / 1e9:.2f}",
        "compile s": f"{figures['compile_seconds']:.1f}",
    }
    if figures["peak_device_bytes"]:
        line["GPU GB"] = f"{figures['peak_device_bytes'] / 1e9:.2f}"
    return line


def print_cells(lines: Mapping[Cell, Mapping[str, str]], console: Console) -> None:
    axes = varying(lines)
    headings = list(dict.fromkeys(heading for line in lines.values() for heading in line))
    table = [[axis.replace("_", " ") for axis in axes] + headings]
    for cell, line in lines.items():
        values = [str(getattr(cell, axis)) for axis in axes]
        table.append(values + [line.get(heading, "") for heading in headings])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for texts in table:
        padded = (f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))
        console.out(printable("  ".join(padded), one_line=True))
