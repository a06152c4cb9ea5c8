"""The rows of a benchmark, and the one JSON file that holds them with their provenance.

A row is one process: one cell of the sweep, measured once. Rates and times are kept for each window
(a dispatch), so that every later question can be put to the same file.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.bench.decode import decode
from harness.errors import InputError
from harness.files import write_json

FORMAT_NAME = "harness-bench-results"
FORMAT_VERSION = 1
RESULTS_FILE_NAME = "results.json"


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """A point of the grid: the settings of `ExecutionConfig` that a sweep varies, as asked for."""

    batch_size: int
    implementation: str
    precision: str
    input: str
    replicas: str
    """A number, or `auto`; so is the next."""
    steps_per_dispatch: str

    def label(self, axes: Iterable[str] | None = None) -> str:
        """Its values on some axes, or on all: `batch size 500, precision float32`."""
        names = self.__dataclass_fields__ if axes is None else axes
        return ", ".join(f"{name.replace('_', ' ')} {getattr(self, name)}" for name in names)


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Of a rate over the windows of the steady state."""

    median: float
    p20: float
    p80: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one process came to, its warm-up and what it compiled left out."""

    steps_per_second: Quantiles
    examples_per_second: Quantiles
    step_time_ms_p50: float
    """Percentiles over windows of a window's mean step time: the host sees no single step."""
    step_time_ms_p95: float
    step_time_ms_p99: float
    data_wait_fraction: float


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Every window of a process, in order, the warm-up included: lists of one length."""

    seconds: tuple[float, ...]
    num_steps: tuple[int, ...]
    examples: tuple[int, ...]
    data_wait_seconds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell in one process."""

    cell: Cell
    repeat: int
    status: Literal["ok", "out of memory", "failed"]
    note: str
    """Why the status is not ok; else empty."""
    marks: tuple[str, ...]
    """What makes the figures doubtful, with the evidence: the machine slept, or was busy."""
    resolved: Mapping[str, Any]
    """What each `auto` came to, and the devices."""
    windows: Windows
    num_warm_up_windows: int
    figures: Figures | None
    """None where the status is not ok."""
    compile_seconds: float
    start_seconds: float
    """From the start of the process to its first compiled step, compilation included."""
    peak_rss_bytes: int
    peak_device_bytes: int | None
    """Of all devices together; None where TensorFlow counts no memory (CPU)."""
    device_utilization_percent: float | None
    """Median over samples and GPUs; None without a GPU that reports it."""
    load_average_before: float
    load_average_after: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two processes that took turns: side A and side B of one cell, measured once."""

    cell: Cell
    repeat: int
    log_ratios: tuple[float, ...]
    """For each two neighbouring turns, one of either side, warm-up included: log of B's examples/s
    over A's."""
    num_warm_up: int
    """Of `log_ratios`, at the start: while the sides still warm up unlike each other."""
    examples_per_second_a: float
    """Median over A's turns of its steady state."""
    examples_per_second_b: float
    marks: tuple[str, ...]
    resolved_a: Mapping[str, Any]
    resolved_b: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the figures are from."""

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
    """Reads what `write_results` wrote.

    Raises:
        InputError: when there is no such file, or it is truncated, of another version, or no
            results file.
    """
    if path.is_dir():
        path = path / RESULTS_FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); name the results file or the folder of a "
            "`harness bench`"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is not whole JSON ({error}); it was cut short or is another kind of file: "
            "measure again"
        ) from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT_NAME:
        raise InputError(
            f'{path} is no results file: it does not say "format": "{FORMAT_NAME}"; name one that '
            "`harness bench` wrote"
        )
    version = content.pop("version", None)
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has version {version}, this harness reads {FORMAT_VERSION}; measure again "
            "with this one, or compare with the harness that wrote it"
        )
    return decode(Results, content, where=str(path))
