"""Runs the command line in this process or in a separate one, and reads a run's files."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.cli.main import main
from harness.run.observers.run_files import RESOLVED, read_config

REPOSITORY = Path(__file__).resolve().parents[3]

CORPUS = ("--synthetic-rows", "2000", "--synthetic-tokens", "1000")
NETWORK = ("--hidden-units", "8", "--dropout", "0.1")
LAYOUT = ("--batch-size", "100", "--steps-per-dispatch", "4")
# `auto` would measure, and could choose another implementation for the run to compare with.
IMPLEMENTATION = ("--implementation", "gather")
SMALL = (*CORPUS, *NETWORK, *LAYOUT, *IMPLEMENTATION)
"""Flags of a run of 16 steps an epoch, in dispatches of 4."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a command."""

    code: int
    out: str
    err: str


def call(*arguments: object) -> Result:
    """Runs `harness ARGUMENTS` in this process, which has two logical CPU devices."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Result(code=code, out=out.getvalue(), err=err.getvalue())


def command_line(*arguments: object) -> list[str]:
    """Returns the command line of `harness ARGUMENTS` in a separate process."""
    return [sys.executable, "-m", "harness", *map(str, arguments)]


def environment() -> dict[str, str]:
    """Returns a user's environment, without the settings by which the suite keeps TensorFlow
    quiet."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "COLUMNS"))}
    return env | {"PYTHONPATH": str(REPOSITORY)}


def run(command: Sequence[str], **options: Any) -> Result:
    """Runs a command in a separate process."""
    options.setdefault("cwd", REPOSITORY)
    options.setdefault("env", environment())
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    return Result(code=done.returncode, out=done.stdout, err=done.stderr)


def records(folder: Path) -> list[dict[str, Any]]:
    """Returns the records of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def settings_of(folder: Path) -> dict[str, Any]:
    """Returns a run's settings in config.json, for `from_mapping(TrainConfig, ...)`."""
    content = read_config(folder)
    del content[RESOLVED]
    return content


def losses(folder: Path) -> list[tuple[int, float]]:
    """Returns (step, loss) of every window and (step, validation loss) of every evaluation, in
    order."""
    return [
        (record["step"], record[name])
        for record in records(folder)
        for name in ("loss", "validation_loss")
        if name in record
    ]


def summary(folder: Path) -> dict[str, Any]:
    """Returns the content of summary.json."""
    return json.loads((folder / "summary.json").read_text())


def contents(folder: Path) -> dict[str, bytes | None]:
    """Returns everything in a folder: each file's bytes, None for a folder in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def names_in(folder: Path) -> set[str]:
    """Returns the names of what lies in a run folder, with `events` for its event files."""
    names = {path.name for path in folder.iterdir()}
    return {"events" if name.startswith("events.out.tfevents.") else name for name in names}


def write_npz(path: Path, **changes: Any) -> Path:
    """Writes a small file in Keras's format: rows are pickled, as there; an array is stored
    unchanged; None leaves a part out."""
    parts: dict[str, Any] = {
        "x_train": [[1, 2, 3], [4, 5], [], [9, 9, 1, 30]],
        "y_train": np.array([0, 1, 0, 1]),
        "x_test": [[7], [1, 1, 1], [2, 8]],
        "y_test": np.array([1, 0, 1]),
    }
    arrays = {}
    for name, part in (parts | changes).items():
        if isinstance(part, np.ndarray):
            arrays[name] = part
        elif part is not None:
            arrays[name] = np.empty(len(part), object)
            for index, row in enumerate(part):
                arrays[name][index] = row
    np.savez(path, **arrays)
    return path
