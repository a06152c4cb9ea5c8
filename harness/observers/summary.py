"""config.json when a run starts and summary.json when it ends: each whole or absent."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from harness.config import precision_watch_every
from harness.errors import InputError
from harness.files import write_json
from harness.records import Choice, Observer, RunStart, Summary

CONFIG_FILE_NAME = "config.json"
SUMMARY_FILE_NAME = "summary.json"
_RESOLVED = "resolved"


class SummaryObserver(Observer):
    """Writes what a run was asked for and what it came to into its run folder."""

    def __init__(self) -> None:
        self._run_dir = Path()

    def on_start(self, run: RunStart) -> None:
        """Writes config.json; removes the summary of a run before, which is outdated by it."""
        self._run_dir = Path(run.run_dir)
        write_json(self._run_dir / CONFIG_FILE_NAME, resolved_config(run))
        (self._run_dir / SUMMARY_FILE_NAME).unlink(missing_ok=True)

    def on_end(self, summary: Summary) -> None:
        """Writes summary.json: the fields of `Summary`, by their names."""
        write_json(self._run_dir / SUMMARY_FILE_NAME, dataclasses.asdict(summary))


def resolved_config(run: RunStart) -> dict[str, Any]:
    """The settings of `TrainConfig` with every `auto` replaced, and under `resolved` how it came.

    Without `resolved`, the content gives the same run again by `from_mapping(TrainConfig, ...)`.
    """
    execution = {
        **run.config["execution"],
        "precision": run.precision.name,
        "implementation": run.implementation.name,
        "input": run.input.name,
        "steps_per_dispatch": int(run.steps_per_dispatch.name),
        "replicas": run.replicas,
    }
    watch = precision_watch_every(run.config["output"]["precision_watch"], run.precision.name)
    choices: dict[str, Choice] = {
        "precision": run.precision,
        "implementation": run.implementation,
        "input": run.input,
        "steps_per_dispatch": run.steps_per_dispatch,
        "compilation_cache": run.compilation_cache,
    }
    return {
        **run.config,
        "execution": execution,
        "compilation_cache": run.compilation_cache.name,
        "output": {**run.config["output"], "precision_watch": watch},
        _RESOLVED: {
            **{name: dataclasses.asdict(choice) for name, choice in choices.items()},
            "devices": run.devices,
            "replicas": run.replicas,
            "num_parameters": run.num_parameters,
            "steps_per_epoch": run.steps_per_epoch,
            "start_step": run.start_step,
            "dataset": dataclasses.asdict(run.dataset),
            "versions": dict(run.versions),
            "host": dict(run.host),
        },
    }


def read_settings(run_dir: Path) -> dict[str, Any]:
    """The settings that a run's config.json holds, for `from_mapping(TrainConfig, ...)`.

    Raises:
        InputError: when the run folder has no config.json, or it is none that a run wrote.
    """
    path = run_dir / CONFIG_FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); is {run_dir} the folder of a run?"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); it cannot be resumed from") from error
    if not isinstance(content, dict) or _RESOLVED not in content:
        raise InputError(f"{path} was not written by a run: it has no '{_RESOLVED}'")
    del content[_RESOLVED]
    return content
