"""A sweep: the grid's cells and the order in which they are measured, and the folder of results."""

import datetime
import itertools
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml

from harness.base.child import OWN_CODE
from harness.base.decoding import flattened
from harness.base.errors import InputError
from harness.base.files import json_text
from harness.data.sources import Dataset
from harness.run import machine
from harness.run.run_folder import claim
from harness.run.telemetry import nvml
from harness.tools.bench.against import code_state
from harness.tools.bench.results import (
    AXES,
    RESULTS_FILE_NAME,
    Cell,
    Provenance,
    Results,
    read_results,
)

PLOT_FILE_NAME = "throughput.png"
TENSORBOARD_FOLDER_NAME = "tensorboard"
_MAY_DIFFER = {"resume", "overwrite", "bench_dir", "plot", "tensorboard", "repeats", "dirty"}
_MAY_DIFFER |= {"fail_if_slower", "fail_if_inconclusive", "started"}
"""What a sweep may be resumed with, whatever it began with."""


def cells(grid: Mapping[str, Any], *, rows: int) -> tuple[Cell, ...]:
    """Every combination of the axes' values in `grid`, the last axis changing fastest; raises
    InputError when a batch is larger than the `rows` of the data set."""
    if too_large := [size for size in grid["batch_size"] if size > rows]:
        raise InputError(
            f"--batch-size names {', '.join(map(str, too_large))}, but the data set has {rows} "
            f"rows to train on; name sizes up to {rows}"
        )
    points = itertools.product(grid["batch_size"], *(map(str, grid[axis]) for axis in AXES[1:]))
    return tuple(Cell(**dict(zip(AXES, point, strict=True))) for point in points)


def remaining(planned: Sequence[Cell], repeats: int, results: Results) -> list[tuple[Cell, int]]:
    """The cells and repeats that are still to be measured: each cell once per repeat, in
    alternating order, so that a drift favours no cell. A cell that ran out of memory is not
    repeated: it would again."""
    done = {(one.cell, one.repeat) for one in results.measured}
    ended = {row.cell for row in results.rows if row.status == "out of memory"}
    return [
        (cell, repeat)
        for repeat in range(repeats)
        for cell in (planned if repeat % 2 == 0 else reversed(planned))
        if (cell, repeat) not in done and cell not in ended
    ]


def open_folder(named: str | None, claims: ExitStack, *, overwrite: bool, resume: bool) -> Path:
    """The folder of results, claimed until `claims` closes; None is a new one in runs/."""
    folder = Path(named or time.strftime("runs/bench_%Y-%m-%d_%H-%M-%S")).absolute()
    claim(folder, claims, what="folder")
    present = (folder / RESULTS_FILE_NAME).exists()
    if present and not (overwrite or resume):
        raise InputError(
            f"{folder} already holds results; give --resume to go on with them, --overwrite to "
            "replace them, or another --bench-dir"
        )
    if resume and not present:
        raise InputError(f"{folder} holds no results to go on with; leave out --resume")
    return folder


def begin(folder: Path, dataset: Dataset, config: Mapping[str, Any], *, resume: bool) -> Results:
    """No results, after what an earlier sweep wrote was removed; or those to resume from, which
    raise InputError when they have other settings, or come from another machine or version."""
    config = json.loads(json_text(config))  # as it is read back
    now = Results(provenance=_provenance(dataset), config=config, rows=(), pairs=())
    if not resume:
        for name in (RESULTS_FILE_NAME, PLOT_FILE_NAME):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / TENSORBOARD_FOLDER_NAME, ignore_errors=True)
        return now
    before = read_results(folder / RESULTS_FILE_NAME)
    were, are = (flattened(r.config) | vars(r.provenance) for r in (before, now))
    changes = [
        f"{name} was {were.get(name)} and is now {value}"
        for name, value in are.items()
        if name not in _MAY_DIFFER and were.get(name) != value
    ]
    if changes:
        raise InputError(
            f"the sweep in {folder} cannot be resumed: {'; '.join(changes)}; give the settings it "
            "began with, or another --bench-dir"
        )
    # Repeats what failed for another reason than memory.
    return replace(before, rows=tuple(row for row in before.rows if row.status != "failed"))


def _provenance(dataset: Dataset) -> Provenance:
    return Provenance(
        versions=machine.versions(),
        host=machine.host(),
        gpus=describe_gpus(),
        **code_state(OWN_CODE),
        dataset={
            "name": dataset.name,
            "rows": dataset.train.num_rows,
            "nnz": dataset.train.nnz,
            "num_tokens": dataset.num_tokens,
            "unique": dataset.train.is_unique,
        },
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def describe_gpus() -> tuple[dict[str, str], ...]:
    """The name, UUID and driver of each GPU that answers."""
    try:
        with nvml.opened():
            driver = pynvml.nvmlSystemGetDriverVersion()
            return tuple({"name": c.name, "uuid": c.uuid, "driver": driver} for c in nvml.cards())
    except pynvml.NVMLError:
        return ()  # without NVIDIA's driver there are none
