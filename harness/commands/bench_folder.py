"""The folder of a benchmark: what may stand in it, and the results that grow in it."""

import dataclasses
import datetime
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.bench import gpu, machine
from harness.bench.process import OWN_CODE
from harness.bench.rows import (
    RESULTS_FILE_NAME,
    Pair,
    Provenance,
    Results,
    Row,
    read_results,
    write_results,
)
from harness.bench.sweep import check_same
from harness.config import to_mapping
from harness.config.bench import BenchConfig
from harness.data.sources import Dataset
from harness.errors import InputError
from harness.files import json_text
from harness.telemetry import host

PLOT_FILE_NAME = "throughput.png"
DIAGNOSIS_FILE_NAME = "diagnosis.json"
TENSORBOARD_FOLDER_NAME = "tensorboard"


def check_folder(config: BenchConfig) -> Path:
    """The folder, made where it is missing.

    Raises:
        InputError: when it cannot be written to, or holds results and neither --overwrite nor
            --resume was given, or holds none and --resume was.
    """
    folder = Path(config.bench_dir or time.strftime("runs/bench_%Y-%m-%d_%H-%M-%S")).absolute()
    results = folder / RESULTS_FILE_NAME
    try:
        present = results.exists()
        if present and not (config.overwrite or config.resume):
            raise InputError(
                f"{folder} already holds results; give --resume to go on with them, --overwrite to "
                "replace them, or another --bench-dir"
            )
        if config.resume and not present:
            raise InputError(f"{folder} holds no results to go on with; leave out --resume")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"folder {folder} cannot be written to ({error.strerror}); name another --bench-dir"
        ) from error
    return folder


def begin(config: BenchConfig, folder: Path, dataset: Dataset) -> Results:
    """No results yet, or those to go on with; `--overwrite` removes what an earlier sweep wrote.

    Raises:
        InputError: when the results there are of other settings, of another machine or code.
    """
    now = Results(
        provenance=_provenance(dataset),
        config=json.loads(json_text(to_mapping(config))),
        rows=(),
        pairs=(),
    )
    if not config.resume:
        (folder / RESULTS_FILE_NAME).unlink(missing_ok=True)
        (folder / PLOT_FILE_NAME).unlink(missing_ok=True)
        shutil.rmtree(folder / TENSORBOARD_FOLDER_NAME, ignore_errors=True)
        return now
    before = read_results(folder / RESULTS_FILE_NAME)
    check_same(before.config, now.config)
    for what in ("host", "gpus", "versions", "commit", "dataset"):
        was, is_now = (_plain(getattr(r.provenance, what)) for r in (before, now))
        if what == "gpus":  # their clocks change from moment to moment
            was, is_now = ([g.get("uuid") for g in gpus] for gpus in (was, is_now))
        if was != is_now:
            raise InputError(
                f"{folder} cannot be resumed: its rows have {what} {was}, now it is {is_now}; "
                "measure anew in another --bench-dir"
            )
    # What failed for another reason than memory is tried again.
    rows = tuple(row for row in before.rows if row.status != "failed")
    return dataclasses.replace(before, rows=rows)


class Recorder:
    """Results that grow: the file is whole and up to date after every addition."""

    def __init__(self, results: Results, folder: Path) -> None:
        self.results = results
        self._path = folder / RESULTS_FILE_NAME

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


def _plain(value: Any) -> Any:
    return json.loads(json_text(value))


def _provenance(dataset: Dataset) -> Provenance:
    commit, dirty = machine.code_state(OWN_CODE)
    load = machine.load_average()
    return Provenance(
        versions=host.versions(),
        host=host.host(),
        gpus=gpu.describe(),
        commit=commit,
        dirty=dirty,
        load_average_before=load,
        load_average_after=load,
        dataset={
            "name": dataset.name,
            "rows": dataset.train.num_rows,
            "nnz": dataset.train.nnz,
            "num_tokens": dataset.num_tokens,
            "unique": dataset.is_unique,
        },
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
