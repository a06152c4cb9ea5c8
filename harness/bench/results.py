"""The results of a benchmark, and the one JSON file that holds them with their provenance.

A row is one process: one cell of the sweep, measured once. The file keeps every window (one
dispatch), so that later questions can be answered from it.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.decoding import decoded
from harness.errors import InputError
from harness.files import write_json
from harness.reading import damage, read_json

FORMAT_NAME = "harness-bench-results"
FORMAT_VERSION = 1
RESULTS_FILE_NAME = "results.json"


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """A point of the grid: the settings of `Settings` that a sweep varies, as asked for."""

    batch_size: int
    implementation: str
    precision: str
    input: str
    replicas: str
    """A number or `auto`, as is the next."""
    steps_per_dispatch: str

    def label(self, axes: Iterable[str] | None = None) -> str:
        """Its values on some axes or on all: `batch size 500, precision float32`."""
        names = AXES if axes is None else axes
        return ", ".join(f"{name.replace('_', ' ')} {getattr(self, name)}" for name in names)


AXES = tuple(axis.name for axis in dataclasses.fields(Cell))
"""The settings that a sweep varies."""


def varying(cells: Sequence[Cell]) -> list[str]:
    """The axes on which the cells differ, batch size always among them."""
    return [n for n in AXES if n == "batch_size" or len({getattr(c, n) for c in cells}) > 1]


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Of a rate over the windows after the warm-up."""

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
    """One cell, measured by one process; a process that failed has only the first fields."""

    cell: Cell
    repeat: int
    status: Literal["ok", "out of memory", "failed"]
    load_average_before: float
    load_average_after: float
    note: str = ""
    """Why the status is not ok; otherwise empty."""
    marks: tuple[str, ...] = ()
    """What makes the figures doubtful, with the evidence: the machine slept or was busy."""
    resolved: Mapping[str, Any] = field(default_factory=dict)
    """The settings with every `auto` resolved, and the devices."""
    windows: Windows = Windows()
    num_warm_up_windows: int = 0
    figures: Figures | None = None
    compile_seconds: float = 0.0
    start_seconds: float = 0.0
    """From the start of the process to its first compiled step, compilation included."""
    peak_rss_bytes: int = 0
    peak_device_bytes: int | None = None
    """Of all devices together; None on a CPU, where TensorFlow does not count memory."""
    device_utilization_percent: float | None = None
    """Median over samples and GPUs; None without a GPU that reports it."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two processes that took turns: side A and side B of one cell, measured once."""

    cell: Cell
    repeat: int
    log_ratios: tuple[float, ...]
    """For each two neighbouring turns, one of each side, warm-up included: the logarithm of B's
    examples/s over A's."""
    num_warm_up: int
    """How many of the first `log_ratios` are warm-up."""
    examples_per_second_a: float
    """Median over A's turns after the warm-up."""
    examples_per_second_b: float
    marks: tuple[str, ...]
    resolved_a: Mapping[str, Any]
    resolved_b: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the figures come from."""

    versions: Mapping[str, str]
    host: Mapping[str, Any]
    """System, processor, cores, memory."""
    gpus: tuple[Mapping[str, Any], ...]
    """Name, driver, clocks, memory of each; empty without NVIDIA's driver."""
    commit: str | None
    """Of the measured code; None outside of a repository."""
    dirty: bool | None
    """Whether the code differs from the commit."""
    load_average_before: float
    load_average_after: float
    dataset: Mapping[str, Any]
    started: str
    """ISO 8601, UTC."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """The content of a results file."""

    provenance: Provenance
    config: Mapping[str, Any]
    """The settings of the command."""
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Those that were measured, in the order of the first rows."""
        measured: tuple[Row | Pair, ...] = (*self.rows, *self.pairs)
        return tuple(dict.fromkeys(one.cell for one in measured))


def write_results(path: Path, results: Results) -> None:
    """Writes the file, whole or not at all."""
    head = {"format": FORMAT_NAME, "version": FORMAT_VERSION}
    write_json(path, {**head, **dataclasses.asdict(results)})


def read_results(path: Path) -> Results:
    """Reads what `write_results` wrote; a folder stands for the results file in it.

    Raises:
        InputError: when there is no such file, or it holds something else.
    """
    if path.is_dir():
        path = path / RESULTS_FILE_NAME
    remedy = "Name a results file of `harness bench`, or its folder."
    content = read_json(path, remedy=remedy)
    written = content.pop("format", None), content.pop("version", None)
    if written != (FORMAT_NAME, FORMAT_VERSION):
        raise InputError(
            f"{path} is not a results file of this version: its format is {written[0]}, version "
            f"{written[1]}, not {FORMAT_NAME}, version {FORMAT_VERSION}. {remedy}"
        )
    results: Results = decoded(Results, content, where=str(path))
    with damage(path, what="a results file", remedy=remedy):
        _check(results)
    return results


def _check(results: Results) -> None:
    """Any exception where a comparison could not be made: no machine, or a rate that is none."""
    host = results.provenance.host
    named = [host["cpu"], host["cores"], *(gpu["name"] for gpu in results.provenance.gpus)]
    if not all(isinstance(name, str | int) for name in named):
        raise ValueError("the machine has no name")
    if not isinstance(host["memory_bytes"], int):
        raise ValueError(f"the machine's memory_bytes are {host['memory_bytes']!r:.100}")
    for row in results.rows:
        if row.figures is not None and not 0 < row.figures.examples_per_second.median < math.inf:
            raise ValueError("a row has a rate that is not positive and finite")
