"""The folder of a run: what may stand in it before the run starts, and what is cleared."""

import shutil
import tempfile
import time
from pathlib import Path

from harness.config import OutputConfig, TrainConfig
from harness.config_file import to_mapping
from harness.errors import InputError
from harness.observers.jsonl import FILE_NAME as METRICS_FILE_NAME
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

_DECIDING: dict[str, tuple[str, ...]] = {
    "data": (),
    "model": (),
    "optimizer": (),
    "execution": ("batch_size", "seed", "precision"),
}
"""Groups of settings that decide a run's losses, and which of their fields: none named is all."""


def check_run_folder(config: OutputConfig) -> Path:
    """The run's folder, made if need be; nothing in it is changed yet.

    Raises:
        InputError: when it cannot be written to, or holds a run and neither --overwrite nor
            --resume was given, or holds none and --resume was.
    """
    named = config.run_dir or time.strftime("runs/%Y-%m-%d_%H-%M-%S")
    folder = Path(named).absolute()
    present = [name for name in _WRITTEN if (folder / name).exists()]
    if present and not (config.overwrite or config.resume):
        raise InputError(
            f"{folder} already holds a run ({', '.join(present)}); give --overwrite to replace it, "
            "--resume to go on with it, or another --run-dir"
        )
    if config.resume and not present:
        raise InputError(f"{folder} holds no run to resume; leave out --resume to start one there")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"run folder {folder} cannot be written to ({error.strerror}); name another --run-dir"
        ) from error
    return folder


def check_resumable(folder: Path, config: TrainConfig) -> None:
    """Checks that resuming would repeat the run: what decides its losses must be as it was.

    Raises:
        InputError: naming each setting that differs and both its values.
    """
    before, now = read_settings(folder), to_mapping(config)
    differing = []
    for group, settings in _DECIDING.items():
        for name in settings or now[group]:
            was, is_now = before[group].get(name), now[group][name]
            if isinstance(is_now, tuple):
                is_now = list(is_now)
            if is_now not in (was, "auto"):
                differing.append(f"{name} was {was} and is now {is_now}")
    if differing:
        raise InputError(
            f"{folder} cannot be resumed with other settings: {'; '.join(differing)}; give the "
            f"run's own ({folder / CONFIG_FILE_NAME} holds them), or another --run-dir"
        )


def clear_run_folder(folder: Path) -> None:
    """Removes what an earlier run wrote, and nothing else."""
    for name in _WRITTEN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
