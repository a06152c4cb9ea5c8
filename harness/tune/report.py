"""What a search leaves: the best settings as a TOML file, and its trials for TensorBoard."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.quiet import quiet_import
from harness.tune.study import Objective, Trial
from kernels.files import replacing


def described(values: Mapping[str, Any]) -> str:
    """A trial's values in a line."""
    shown = (
        f"{name.replace('_', ' ')} {value:.4g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value:,}"
        for name, value in values.items()
    )
    return ", ".join(shown)


def outcome(trial: Trial, objective: Objective) -> str:
    """What came of a trial, in a line."""
    if trial.status == "failed":
        return f"failed: {trial.note}"
    found = ""
    if trial.value is not None:
        found = f"{objective} {trial.value:.4f} in epoch {trial.best_epoch} of {len(trial.epochs)}"
    if trial.status == "complete":
        return found
    return f"{trial.status}; {found}" if found else trial.status


def toml_text(settings: Mapping[str, Any]) -> str:
    """Settings as lines of TOML: numbers, truth values, texts, lists; None is the text "None"."""
    return "".join(f"{name} = {_toml(value)}\n" for name, value in settings.items())


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if value is None:
        return '"None"'
    text = json.dumps(value, ensure_ascii=False)  # but for this one, TOML escapes as JSON does
    return text.replace("\x7f", "\\u007f")


def write_best(path: Path, settings: Mapping[str, Any], *, comment: str) -> None:
    """Writes settings for `--config`.

    Raises:
        OSError: when the file cannot be written, naming it.
    """
    with replacing(path) as beside:
        beside.write_text(f"# {comment}\n{toml_text(settings)}", encoding="utf-8")


def write_hparams(trials: Sequence[Trial], folder: Path) -> None:
    """Writes an event file for each trial, each into its own folder below `folder`: the settings,
    as columns to filter and sort by, and a curve of each metric over the epochs.

    Raises:
        OSError: naming the file, when it cannot be written.
    """
    with quiet_import():
        from harness.observe.tensorboard_pages import write_hparams_row

    for trial in trials:
        curves = [
            (step, {f"validation/{name}": value for name, value in epoch.items()})
            for step, epoch in enumerate(trial.epochs, 1)
        ]
        last = {"seconds": trial.seconds}
        if trial.value is not None and math.isfinite(trial.value):
            last |= {"best/objective": trial.value, "best/epoch": float(trial.best_epoch or 0)}
        write_hparams_row(
            folder / f"trial_{trial.number:04}",
            trial.values,
            [*curves, (len(trial.epochs), last)],
            done=trial.status != "failed",
        )
