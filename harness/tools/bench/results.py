"""The results of a benchmark: rows of processes, what they come to in each cell, and tables."""

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from harness.base.decoding import decoded
from harness.base.errors import InputError, printable
from harness.base.reading import damage, read_json
from harness.base.terminal import markdown_table

RESULTS_FILE_NAME = "results.json"
RESULTS_FORMAT = "harness-bench-results 4"
SKIPPED = "skipped: "  # what the note of a cell begins with that cannot be measured here
LIMITS = ("copy", "matmul")  # what a step is held against, see limits.py
_LEAST_CONFIDENCE = 0.9
_REMEDY = "Measure again, or name another file."
# The columns of a sweep: heading, figure, what to multiply it by, and its format.
_THROUGHPUT = (
    ("examples/s", "examples_per_second", 1, ",.0f"),
    ("interval", "interval", 1, ""),
    ("mean", "mean_examples_per_second", 1, ",.0f"),
    ("steps/s", "steps_per_second", 1, ",.1f"),
    ("ms p50", "step_time_ms_p50", 1, ".3g"),
    ("p95", "step_time_ms_p95", 1, ".3g"),
    ("p99", "step_time_ms_p99", 1, ".3g"),
    ("speed-up", "speed_up", 1, ".2f"),
    ("efficiency", "efficiency", 1, ".0%"),
)
_RESOURCES = (
    ("GB", "peak_rss_bytes", 1e-9, ".2f"),
    ("compile s", "compile_seconds", 1, ".1f"),
    ("data wait", "data_wait_fraction", 1, ".1%"),
    ("of copy", "copy_limit_fraction", 1, ".0%"),
    ("of matmul", "matmul_limit_fraction", 1, ".0%"),
    ("per GPU", "examples_per_second_per_gpu", 1, ",.0f"),
    ("GPU %", "gpu_utilization_percent", 1, ".0f"),
    ("GPU GB", "gpu_memory_peak_bytes", 1e-9, ".2f"),
    ("W", "gpu_power_watts", 1, ".0f"),
    ("J/1,000", "joules_per_1000_examples", 1, ".3g"),
)


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
    """What a process measured in a cell."""

    cell: Cell
    repeat: int
    side: Literal["A", "B"] = "B"  # the side of a comparison; B without one
    note: str = ""  # the reason why there are no figures, or nothing
    same_as: Cell | None = None  # the cell that was measured with the same program instead
    resolved: Mapping[str, Any] = field(default_factory=dict)  # with devices, without `auto`
    figures: Mapping[str, float] = field(default_factory=dict)  # by `figures` in measure.py
    ratio: float | None = None  # B's examples/s over A's, which it took turns with
    # Examples, seconds and data wait in seconds of each stretch of a sweep, warm-up included, and
    # the seconds from the request to the answer, by the clock of the process that asked.
    stretches: tuple[tuple[float, ...], ...] = ()
    clock_seconds: float | None = None

    @property
    def line(self) -> str:
        if self.same_as is not None:
            differs = [n for n in AXES if getattr(self.cell, n) != getattr(self.same_as, n)]
            return f"the same program as with {self.same_as.label(differs)}, measured once"
        if not self.figures:
            return self.note
        parts = [f"{self.figures['examples_per_second']:,.0f} examples/s"]
        if self.ratio is not None:
            parts.append(f"B / A {self.ratio:.3f}")
        return "; ".join([*parts, *self.resolved.get("warnings", ())])


def read_results(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """Returns the content of a results.json, and its rows."""
    content = read_json(path, remedy=_REMEDY)
    if content.get("format") != RESULTS_FORMAT:
        raise InputError(
            f"{path} has the format {content.get('format')!r}, not {RESULTS_FORMAT!r}; "
            "measure again with this version"
        )
    with damage(path, what="the results of `harness bench`", remedy=_REMEDY):
        return content, [decoded(Row, row, where=str(path)) for row in content["rows"]]


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns a confidence interval of the median over processes, and its confidence: two order
    statistics, whatever the distribution (Hahn and Meeker, "Statistical Intervals", section 5.2).
    The narrowest of at least 90 %, or else all values: of five processes 94 %, of three 75 %."""
    ordered, num = sorted(values), len(values)
    below = [sum(math.comb(num, i) for i in range(k)) / 2**num for k in range(1, num // 2 + 1)]
    confidences = [1 - 2 * share for share in below] or [0.0]
    k = max((k for k, c in enumerate(confidences) if c >= _LEAST_CONFIDENCE), default=0)
    return ordered[k], ordered[num - 1 - k], confidences[k]


def summarized(rows: Sequence[Row], *, weak: bool = False) -> dict[Cell, dict[str, Any]]:
    """Returns each cell's figures: medians over its processes, with `low`, `high` and `confidence`
    of examples/s; or `note`, where there are none. With several numbers of GPUs there are
    `speed_up` and `efficiency` against the fewest: at the same batch size, or `weak`, at the same
    share of each replica."""
    found: dict[Cell, dict[str, Any]] = {}
    for cell in dict.fromkeys(row.cell for row in rows):
        mine = [row for row in rows if row.cell == cell]
        good = [row.figures for row in mine if row.figures]
        if not good:
            found[cell] = {"note": mine[0].line}
            continue
        names = [name for name in good[0] if all(name in one for one in good)]
        names += [name for name in good[0] if name not in names]  # the limits, of one process
        medians = {n: statistics.median(one[n] for one in good if n in one) for n in names}
        for name in LIMITS:
            if (ms := medians.get(f"{name}_limit_ms")) is not None:
                medians[f"{name}_limit_fraction"] = ms / medians["step_time_ms_p50"]
        interval = median_interval([one["examples_per_second"] for one in good])
        found[cell] = {**medians, **dict(zip(("low", "high", "confidence"), interval, strict=True))}
    numbers = {cell.replicas for cell in found}
    # On a CPU one program trains all shares, so that more of them are no speed-up.
    on_gpus = any("GPU" in str(device) for r in rows for device in r.resolved.get("devices", ()))
    if on_gpus and len(numbers) > 1 and all(isinstance(number, int) for number in numbers):
        _add_scaling(found, min(int(number) for number in numbers), weak=weak)
    return found


def _add_scaling(found: dict[Cell, dict[str, Any]], fewest: int, *, weak: bool) -> None:
    for cell, figures in found.items():
        times = int(cell.replicas) / fewest
        batch_size = round(cell.batch_size / times) if weak else cell.batch_size
        base = found.get(dataclasses.replace(cell, replicas=fewest, batch_size=batch_size), {})
        if "note" not in figures and "examples_per_second" in base:
            figures["speed_up"] = figures["examples_per_second"] / base["examples_per_second"]
            figures["efficiency"] = figures["speed_up"] / times


def tables(lines: Mapping[Cell, Mapping[str, Any]]) -> Iterator[list[list[str]]]:
    """Yields the tables of a sweep as rows of texts, headings first: throughput, then resources."""
    for columns in (_THROUGHPUT, _RESOURCES):
        shown = [c for c in columns if any(c[1] in f for f in lines.values()) or c[1] == "interval"]
        if columns is _RESOURCES and all("note" in figures for figures in lines.values()):
            return
        axes = varying(lines)
        table = [[*(axis.replace("_", " ") for axis in axes), *(column[0] for column in shown)]]
        for cell, figures in lines.items():
            place = [str(getattr(cell, axis)) for axis in axes]
            if "note" not in figures:
                table.append(place + [_shown(figures, *column[1:]) for column in shown])
            elif columns is _THROUGHPUT:
                table.append([*place, figures["note"]])
        yield table


def _shown(figures: Mapping[str, Any], name: str, times: float, shape: str) -> str:
    if name == "interval":  # a single process has none
        return f"{figures['low']:,.0f}-{figures['high']:,.0f}" if figures["confidence"] else "-"
    value = figures.get(name)
    return "" if value is None else f"{value * times:{shape}}"


def meaning(lines: Mapping[Cell, Mapping[str, Any]]) -> list[str]:
    """Returns sentences that say what the columns count."""
    if all("note" in figures for figures in lines.values()):
        return []
    confidences = [f["confidence"] for f in lines.values() if f.get("confidence")]
    said = [
        f"interval: of the median over processes, {min(confidences):.0%} confidence"
        if confidences
        else "interval: one process has none; set --repeats 5 for one of 94 %",
        "ms: of a step of the whole batch, over stretches of at least 50 ms",
    ]
    if any("copy_limit_fraction" in figures for figures in lines.values()):
        said += [
            "of copy: the time of a copy of the bytes that a step has to move (weights, gradients, "
            "slots, ids and their rows, once each), as a share of the step",
            "of matmul: the time of matrix products of as many operations, as a share of the step",
        ]
    return said


def print_sweep(lines: Mapping[Cell, Mapping[str, Any]], console: Console) -> None:
    for table in tables(lines):
        print_table(table, console)
        console.out("")
    for sentence in meaning(lines):
        console.out(sentence)


def print_table(table: Sequence[Sequence[str]], console: Console) -> None:
    """Prints rows of texts in columns; the last text of a shorter row may be longer than its
    column."""
    full = [texts for texts in table if len(texts) == len(table[0])]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    for texts in table:
        padded = (f"{text:>{width}}" for text, width in zip(texts, widths, strict=False))
        console.out(printable("  ".join(padded), one_line=True, most=1000))


def markdown(lines: Mapping[Cell, Mapping[str, Any]], provenance: Mapping[str, Any]) -> str:
    """Returns a sweep as a Markdown table, with what it says of its machine and its columns."""
    parts = [f"{provenance['machine']}, commit {provenance['versions']['commit'][:12]}\n"]
    parts += [markdown_table(head, rows) + "\n" for head, *rows in tables(lines)]
    return "\n".join([*parts, *(f"- {sentence}" for sentence in meaning(lines))]) + "\n"


def csv_text(lines: Mapping[Cell, Mapping[str, Any]]) -> str:
    """Returns a sweep as CSV: a line for each cell, with its settings and all figures."""
    names = dict.fromkeys(name for figures in lines.values() for name in figures)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*AXES, *names], lineterminator="\n")
    writer.writeheader()
    for cell, figures in lines.items():
        writer.writerow({**dataclasses.asdict(cell), **figures})
    return text.getvalue()
