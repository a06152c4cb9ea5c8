"""The results of a benchmark, and the JSON file that holds them with their provenance.

A row is one process: one cell of the sweep, measured once. The file keeps every window (one
dispatch), so that later questions can be answered from it.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.base.decoding import decoded
from harness.base.errors import InputError
from harness.base.files import write_json
from harness.base.reading import damage, read_json

FORMAT = {"format": "harness-bench-results", "version": 2}
RESULTS_FILE_NAME = "results.json"


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """A point of the grid: the settings of `Settings` that a sweep varies, as asked for."""

    batch_size: int
    implementation: str
    precision: str
    input: str
    replicas: str
    """A number or `auto`, like `steps_per_dispatch`."""
    steps_per_dispatch: str

    def label(self, axes: Iterable[str] | None = None) -> str:
        """Returns the values on some axes or on all: `batch size 500, precision float32`."""
        names = AXES if axes is None else axes
        return ", ".join(f"{name.replace('_', ' ')} {getattr(self, name)}" for name in names)


AXES = tuple(axis.name for axis in dataclasses.fields(Cell))


def varying(cells: Sequence[Cell]) -> list[str]:
    """The axes on which the cells differ, batch size always among them."""
    return [n for n in AXES if n == "batch_size" or len({getattr(c, n) for c in cells}) > 1]


@dataclass(frozen=True)
class Quantiles:
    median: float
    p20: float
    p80: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one process, without its warm-up and its compilation."""

    steps_per_second: Quantiles
    examples_per_second: Quantiles
    step_time_ms_p50: float
    """Percentiles over windows of a window's mean step time: the host cannot time single steps."""
    step_time_ms_p95: float
    step_time_ms_p99: float
    data_wait_fraction: float


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Every window of a process, in order, warm-up included: lists of one length."""

    seconds: tuple[float, ...] = ()
    num_steps: tuple[int, ...] = ()
    examples: tuple[int, ...] = ()
    data_wait_seconds: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell, measured by one process. If the process failed, only the first fields are set."""

    cell: Cell
    repeat: int
    status: Literal["ok", "out of memory", "failed"]
    note: str = ""
    """Why the status is not ok; otherwise empty."""
    marks: tuple[str, ...] = ()
    """What makes the figures doubtful, with the evidence: the machine slept or was busy."""
    resolved: Mapping[str, Any] = field(default_factory=dict)
    """The settings with every `auto` resolved, and the devices."""
    windows: Windows = Windows()
    figures: Figures | None = None
    compile_seconds: float = 0.0
    peak_rss_bytes: int = 0
    peak_device_bytes: int | None = None
    """All devices together; None on a CPU, where TensorFlow does not count memory."""

    @property
    def line(self) -> str:
        if self.figures is None:
            return f"{self.status}: {self.note}"
        rate = self.figures.examples_per_second
        text = f"{rate.median:,.0f} examples/s ({rate.p20:,.0f} - {rate.p80:,.0f})"
        return "; ".join([text, *self.marks])


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two processes that took turns: side A and side B of one cell, measured once."""

    cell: Cell
    repeat: int
    log_ratios: tuple[float, ...]
    """The logarithm of B's examples/s over A's for each two neighbouring turns, one of each side,
    warm-up included."""
    examples_per_second_a: float
    """Median over A's turns after the warm-up."""
    examples_per_second_b: float
    marks: tuple[str, ...]
    resolved_a: Mapping[str, Any]
    resolved_b: Mapping[str, Any]

    @property
    def line(self) -> str:
        a, b = self.examples_per_second_a, self.examples_per_second_b
        return "; ".join([f"A {a:,.0f}, B {b:,.0f} examples/s, B / A {b / a:.3f}", *self.marks])


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The machine, the versions and the code that the figures come from."""

    versions: Mapping[str, str]
    host: Mapping[str, Any]
    """System, processor, cores, memory."""
    gpus: tuple[Mapping[str, Any], ...]
    """Name, UUID and driver of each; empty without NVIDIA's driver."""
    commit: str | None
    """The commit of the measured code; None outside of a repository."""
    dirty: bool | None
    """Whether the code differs from the commit."""
    dataset: Mapping[str, Any]
    started: str
    """ISO 8601, UTC."""

    @property
    def machine(self) -> str:
        """The processor, cores, memory and GPUs, in words."""
        gpus = ", ".join(str(gpu["name"]) for gpu in self.gpus) or "no GPU"
        memory = round(self.host["memory_bytes"] / 2**30)  # may differ by pages from boot to boot
        return f"{self.host['cpu']}, {self.host['cores']} cores, {memory} GiB, {gpus}"


@dataclass(frozen=True, kw_only=True)
class Results:
    """The content of a results file."""

    provenance: Provenance
    config: Mapping[str, Any]
    """The settings of the command."""
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]

    @property
    def measured(self) -> tuple[Row | Pair, ...]:
        return (*self.rows, *self.pairs)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The measured cells, in the order of their first rows."""
        return tuple(dict.fromkeys(one.cell for one in self.measured))

    def plus(self, measured: Row | Pair) -> "Results":
        if isinstance(measured, Row):
            return dataclasses.replace(self, rows=(*self.rows, measured))
        return dataclasses.replace(self, pairs=(*self.pairs, measured))


def write_results(path: Path, results: Results) -> None:
    """Writes the file, whole or not at all."""
    write_json(path, FORMAT | dataclasses.asdict(results))


def read_results(path: Path) -> Results:
    """Reads what `write_results` wrote; a folder stands for the results file in it. Raises
    InputError when there is no such file, or it holds something else."""
    path = path / RESULTS_FILE_NAME if path.is_dir() else path
    remedy = "Name a results file of `harness bench`, or its folder."
    content = read_json(path, remedy=remedy)
    head = {name: content.pop(name, None) for name in FORMAT}
    if head != FORMAT:
        raise InputError(
            f"{path} is not a results file of this version: its format is {head['format']}, "
            f"version {head['version']}, not {FORMAT['format']}, version {FORMAT['version']}. "
            f"{remedy}"
        )
    with damage(path, what="a results file", remedy=remedy):
        results: Results = decoded(Results, content, where=str(path))
        _ = results.provenance.machine  # a comparison needs it
        for row in results.rows:
            if row.figures and not 0 < row.figures.examples_per_second.median < math.inf:
                raise ValueError("a row has a rate that is not positive and finite")
    return results
