"""What a search leaves: the best settings as a TOML file, and its trials for TensorBoard."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.quiet import quiet_import
from harness.tune.space import Parameter, Range
from harness.tune.study import Objective, Trial
from kernels.files import replacing

METRICS = {
    "validation/accuracy": "validation accuracy",
    "validation/loss": "validation loss",
    "best/objective": "best epoch's objective",
    "best/epoch": "best epoch",
    "seconds": "seconds",
}
"""Tags, and their names on the HParams page."""


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


def write_hparams(
    trials: Sequence[Trial],
    parameters: Mapping[str, Parameter],
    folder: Path,
) -> None:
    """Writes event files into `folder`: a run for each trial, with a curve of each metric over its
    epochs, and the settings as columns to filter and sort by.

    Raises:
        OSError: when a file cannot be written, naming it.
    """
    with quiet_import():
        from tensorboard.plugins.hparams import summary_v2

        from harness.observe.hparams import TableRow, write_table

    def domain(parameter: Parameter) -> Any:
        if not isinstance(parameter, Range):
            return summary_v2.Discrete(list(parameter))
        kind = summary_v2.IntInterval if isinstance(parameter.low, int) else summary_v2.RealInterval
        return kind(parameter.low, parameter.high)

    rows = []
    for trial in trials:
        curves = [
            (step, {f"validation/{name}": value for name, value in epoch.items()})
            for step, epoch in enumerate(trial.epochs, 1)
        ]
        last = {"seconds": trial.seconds}
        if trial.value is not None and math.isfinite(trial.value):
            last |= {"best/objective": trial.value, "best/epoch": float(trial.best_epoch or 0)}
        rows.append(
            TableRow(
                name=f"trial_{trial.number:04}",
                settings=dict(trial.values),
                scalars=[*curves, (len(trial.epochs), last)],
                done=trial.status != "failed",
            )
        )
    domains = {name: domain(parameter) for name, parameter in parameters.items()}
    write_table(folder, domains=domains, metrics=METRICS, rows=rows)
