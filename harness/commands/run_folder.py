"""The folder of a run: what may stand in it before the run starts, and what is cleared."""

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config import ExecutionConfig, OutputConfig, TrainConfig, from_mapping
from harness.errors import InputError
from harness.observers.jsonl import FILE_NAME as METRICS_FILE_NAME
from harness.observers.jsonl import whole_lines
from harness.observers.summary import CONFIG_FILE_NAME, SUMMARY_FILE_NAME, read_settings
from harness.observers.tensorboard import FOLDER_NAME as TENSORBOARD_FOLDER_NAME

MODEL_FILE_NAME = "model.keras"
CHECKPOINT_FOLDER_NAME = "checkpoints"
_WRITTEN = (
    CONFIG_FILE_NAME,
    SUMMARY_FILE_NAME,
    METRICS_FILE_NAME,
    MODEL_FILE_NAME,
    CHECKPOINT_FOLDER_NAME,
    TENSORBOARD_FOLDER_NAME,
)
"""Everything that a run writes, and so everything that --overwrite removes."""


def check_run_folder(config: OutputConfig) -> Path:
    """The run's folder, which need not exist; nothing is made or changed.

    Raises:
        InputError: when it cannot be written to, or holds a run and neither --overwrite nor
            --resume was given, or holds none and --resume was.
    """
    folder = Path(config.run_dir or time.strftime("runs/%Y-%m-%d_%H-%M-%S")).absolute()
    if config.run_dir is None and folder.exists():  # another run began in the same second
        folder = folder.with_name(f"{folder.name}_{os.getpid()}")
    try:
        present = [name for name in _WRITTEN if (folder / name).exists()]
        check_writable(folder)
    except OSError as error:
        raise InputError(
            f"run folder {folder} cannot be written to ({error.strerror}); name another --run-dir"
        ) from error
    if present and not (config.overwrite or config.resume):
        raise InputError(
            f"{folder} already holds a run ({', '.join(present)}); give --overwrite to replace it, "
            "--resume to go on with it, or another --run-dir"
        )
    if config.resume and not present:
        raise InputError(f"{folder} holds no run to resume; leave out --resume to start one there")
    return folder


def check_writable(folder: Path) -> None:
    """Tries to make a file in `folder`, or in what is there of it already; leaves none.

    Raises:
        OSError: when it cannot be made.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    with tempfile.TemporaryFile(dir=there):
        pass


def check_resumable(folder: Path, config: TrainConfig) -> ExecutionConfig:
    """Checks that resuming would repeat the run: what decides its losses must be as it was.

    Returns:
        How the run was executed, every `auto` resolved.

    Raises:
        InputError: naming each setting that differs and both its values; or when its metrics.jsonl
            is damaged.
    """
    path = folder / CONFIG_FILE_NAME
    before = from_mapping(TrainConfig, read_settings(folder), where=str(path))
    were, are = _deciding(before), _deciding(config)
    differing = [
        f"--{name.replace('_', '-')} was {_shown(were[name])} and is now {_shown(value)}"
        for name, value in are.items()
        if value not in (were[name], "auto")
    ]
    if differing:
        raise InputError(
            f"{folder} cannot be resumed with other settings: {'; '.join(differing)}; give the "
            f"run's own ({path} holds them), or another --run-dir"
        )
    event_folder = before.output.tensorboard
    if config.output.tensorboard == "on" and event_folder not in ("on", "off"):
        raise InputError(
            f"the run's event files are in {event_folder}, and would go on elsewhere: give "
            f"--tensorboard {event_folder} again, or --tensorboard off"
        )
    metrics = folder / METRICS_FILE_NAME
    if metrics.exists():
        for _ in whole_lines(metrics):
            pass  # each is checked: the run appends behind them
    return before.execution


def _deciding(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide a run's losses, by name."""
    execution = config.execution
    decide = {
        **_settings(dataclasses.asdict(config.data)),
        **dataclasses.asdict(config.model),
        **dataclasses.asdict(config.optimizer),
        "batch_size": execution.batch_size,
        "seed": execution.seed,
        "precision": execution.precision,
    }
    del decide["word_index"]
    return decide


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a group and of the groups in it, by their own names, as the flags have them."""
    flat: dict[str, Any] = {}
    for name, value in group.items():
        flat |= _settings(value) if isinstance(value, Mapping) else {name: value}
    return flat


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def prepare_run_folder(folder: Path, *, clear: bool) -> None:
    """Makes the folder; `clear` removes what an earlier run wrote there, and nothing else.

    Raises:
        InputError: when it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"run folder {folder} cannot be made ({error.strerror}); name another --run-dir"
        ) from error
    for name in _WRITTEN if clear else ():
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
