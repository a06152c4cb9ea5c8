"""A sweep: the grid's cells and the order in which they are measured, and the folder of results."""

import dataclasses
import datetime
import itertools
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.bench import machine
from harness.bench.against import code_state
from harness.bench.results import (
    AXES,
    RESULTS_FILE_NAME,
    Cell,
    Pair,
    Provenance,
    Results,
    Row,
    read_results,
    write_results,
)
from harness.child import OWN_CODE
from harness.data.sources import Dataset
from harness.errors import InputError
from harness.files import json_text
from harness.observe import host
from harness.run_folder import claim

PLOT_FILE_NAME = "throughput.png"
TENSORBOARD_FOLDER_NAME = "tensorboard"
_MAY_DIFFER = frozenset(
    {"resume", "overwrite", "bench_dir", "plot", "tensorboard", "repeats", "gate"}
)
"""Settings that a sweep may be resumed with whatever it began with."""


def cells(grid: Mapping[str, Any], *, rows: int) -> tuple[Cell, ...]:
    """Every combination of the axes, the last axis changing fastest.

    Args:
        grid: the values of each axis.
        rows: training rows of the data set.

    Raises:
        InputError: when a batch is larger than the data set.
    """
    too_large = [size for size in grid["batch_size"] if size > rows]
    if too_large:
        raise InputError(
            f"--batch-size names {', '.join(map(str, too_large))}, but the data set has {rows} "
            f"rows to train on; name sizes up to {rows}"
        )
    points = itertools.product(*(map(str, grid[axis]) for axis in AXES))
    return tuple(
        Cell(batch_size=int(size), **dict(zip(AXES[1:], others, strict=True)))
        for size, *others in points
    )


def remaining(planned: Sequence[Cell], repeats: int, results: Results) -> list[tuple[Cell, int]]:
    """The cells and repeats that are still to be measured: each cell once per repeat, in
    alternating order, so that a drift favours no cell. A cell that ran out of memory is not
    repeated: it would again."""
    measured: tuple[Row | Pair, ...] = (*results.rows, *results.pairs)
    done = {(one.cell, one.repeat) for one in measured}
    ended = {row.cell for row in results.rows if row.status == "out of memory"}
    return [
        (cell, repeat)
        for repeat in range(repeats)
        for cell in (planned if repeat % 2 == 0 else reversed(planned))
        if (cell, repeat) not in done and cell not in ended
    ]


def open_folder(named: str | None, claims: ExitStack, *, overwrite: bool, resume: bool) -> Path:
    """The folder of results, claimed until `claims` closes; None is a new one in runs/.

    Raises:
        InputError: when it cannot be written to, another command uses it, it holds results and
            neither --overwrite nor --resume was given, or it holds none and --resume was.
    """
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


class Recorder:
    """The results of a sweep, in a file that is complete and up to date after every addition."""

    def __init__(
        self, folder: Path, dataset: Dataset, config: Mapping[str, Any], *, resume: bool
    ) -> None:
        """Begins with no results, or with those to resume from.

        Without `resume`, removes what an earlier sweep wrote into the folder.

        Raises:
            InputError: when the results to resume from have other settings, or come from another
                machine or version.
        """
        self._path = folder / RESULTS_FILE_NAME
        self.results = Results(
            provenance=_provenance(dataset),
            config=json.loads(json_text(config)),  # as it is read back
            rows=(),
            pairs=(),
        )
        if resume:
            before = read_results(self._path)
            _check_same(before, self.results, folder)
            # Repeats what failed for another reason than memory.
            rows = tuple(row for row in before.rows if row.status != "failed")
            self.results = dataclasses.replace(before, rows=rows)
        else:
            self._path.unlink(missing_ok=True)
            (folder / PLOT_FILE_NAME).unlink(missing_ok=True)
            shutil.rmtree(folder / TENSORBOARD_FOLDER_NAME, ignore_errors=True)

    def add(self, measured: Row | Pair) -> None:
        """Adds a row or a pair."""
        load = machine.load_average()
        rows, pairs = self.results.rows, self.results.pairs
        self.results = dataclasses.replace(
            self.results,
            provenance=dataclasses.replace(self.results.provenance, load_average_after=load),
            rows=(*rows, measured) if isinstance(measured, Row) else rows,
            pairs=(*pairs, measured) if isinstance(measured, Pair) else pairs,
        )
        write_results(self._path, self.results)


def _check_same(before: Results, now: Results, folder: Path) -> None:
    names = now.config.keys() - _MAY_DIFFER
    differing = sorted(n for n in names if before.config.get(n) != now.config[n])
    if differing:
        raise InputError(
            f"the sweep cannot be resumed with other settings: [{'], ['.join(differing)}] differ; "
            "give the settings that it began with, or another --bench-dir"
        )
    was, is_now = _origin(before.provenance), _origin(now.provenance)
    for what in was:
        if was[what] != is_now[what]:
            raise InputError(
                f"{folder} cannot be resumed: its rows have {what} {was[what]}, now it is "
                f"{is_now[what]}; name another --bench-dir"
            )


def _origin(provenance: Provenance) -> dict[str, Any]:
    """What must be the same for all rows of a file."""
    names = ("host", "versions", "commit", "dataset")
    gpus = [gpu.get("uuid") for gpu in provenance.gpus]  # their clocks change all the time
    return {"gpus": gpus, **{name: getattr(provenance, name) for name in names}}


def _provenance(dataset: Dataset) -> Provenance:
    load = machine.load_average()
    return Provenance(
        versions=host.versions(),
        host=host.host(),
        gpus=machine.describe_gpus(),
        **code_state(OWN_CODE),
        load_average_before=load,
        load_average_after=load,
        dataset={
            "name": dataset.name,
            "rows": dataset.train.num_rows,
            "nnz": dataset.train.nnz,
            "num_tokens": dataset.num_tokens,
            "unique": dataset.train.is_unique,
        },
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
