"""What the files of a run folder say of the run: its throughput, its curves and its settings."""

import re
import shlex
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from harness.base.checks import flags_of
from harness.base.decoding import changed, from_mapping
from harness.base.errors import as_command
from harness.base.reading import damage, read_json
from harness.run import profiling
from harness.run.observers import jsonl, run_files
from harness.run.observers.console import gpu_text
from harness.run.stretches import stretches_of
from harness.tools.experiment import TrainConfig
from harness.tools.report.answers import Floats
from harness.trainer.resuming import asked_settings

_GPU_CURVES = {  # titles, each with the metric that the curve shows and its unit
    "GPU utilization, %": ("utilization_percent", 1),
    "GPU memory, GiB": ("memory_used_bytes", 2**30),
    "GPU power, W": ("power_watts", 1),
}
_OF_SUMMARY = ("test_loss", "epochs", "steps", "batch_size", "devices")  # keys of summary.json
_REMEDY = "Restore or remove the file."

Lines = Mapping[str, Sequence[tuple[float, float]]]  # points, steps and values, by label
Curves = dict[str, dict[str, Floats]]  # arrays [2, points] by label, by title


class RunFolder:
    """A run folder, which may lack any file: what is missing is left out. An InputError names a
    damaged file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        names = {file.name for file in path.iterdir()}
        self._config: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}
        if run_files.CONFIG_FILE_NAME in names:
            self._config = run_files.read_config(path)
        if run_files.SUMMARY_FILE_NAME in names:
            self._summary = read_json(path / run_files.SUMMARY_FILE_NAME, remedy=_REMEDY)
        self._resolved = self._config.get(run_files.RESOLVED, {})
        self._records = list(jsonl.records(path / jsonl.FILE_NAME))

    def figures(self) -> dict[str, Any]:
        """Returns the figures of the throughput, by name."""
        if not (found := self._summary):
            return {}
        with self._damage(run_files.SUMMARY_FILE_NAME):
            spent = [found[f"{part}_seconds"] for part in ("train", "compile", "wall")]
            spent.insert(2, max(0.0, spent[2] - spent[0] - spent[1]))
            names = "training", "compilation", "evaluation and the rest", "wall time"
            times = {
                name: f"{seconds:,.2f} s ({seconds / spent[-1]:.1%})"
                for name, seconds in zip(names, spent, strict=True)
            }
            rate, wait = found["steps_per_second"], found["data_wait_fraction"]
            figures = {
                "examples/s, median": found["examples_per_second"],
                "examples/s, mean": found["mean_examples_per_second"],
                "step time, ms": rate and 1e3 / rate,
                "data wait": None if wait is None else f"{wait:.1%}",
                **times,
                "peak memory of the host": f"{found['peak_rss_bytes'] / 2**30:.2f} GiB",
                **{f"GPU {n}": gpu_text(gpu) for n, gpu in enumerate(found.get("gpus", ()))},
                "joules per 1,000 examples": found.get("joules_per_1000_examples"),
            }
        return {name: value for name, value in figures.items() if value is not None}

    def throughput_curves(self) -> Curves:
        with self._damage(jsonl.FILE_NAME):
            windows = [record for record in self._records if "num_steps" in record]
            stretches = stretches_of(
                windows, batch_size=1
            )  # which the rates below do not depend on
            curves: dict[str, Lines] = {
                "examples/s": {"": [(s.step, s.examples_per_second) for s in stretches]},
                "data wait, %": {"": [(s.step, 100 * s.data_wait_fraction) for s in stretches]},
            }
            for title, (metric, unit) in _GPU_CURVES.items():
                lines = defaultdict(list)
                for window in windows:
                    for tag, spread in window.get("telemetry", {}).items():
                        if gpu := re.fullmatch(rf"gpu/(\d+)/{metric}", tag):
                            point = window["step"], spread["mean"] / unit
                            lines[f"GPU {gpu[1]}"].append(point)
                curves[title] = lines
            return _drawable(curves)

    def learning_curves(self) -> Curves:
        has_own = self._resolved.get("dataset", {}).get("validation_rows")
        prefixes = {"training": "", "validation" if has_own else "test": "validation_"}
        with self._damage(jsonl.FILE_NAME):
            curves: dict[str, Lines] = {
                name: {
                    label: [
                        (r["step"], r[key]) for r in self._records if (key := prefix + name) in r
                    ]
                    for label, prefix in prefixes.items()
                }
                for name in ("loss", "accuracy")
            }
            return _drawable(curves)

    def step_parts(self) -> list[tuple[str, str, str]]:
        """Returns name, share and contents of each part of a step in the last profile, if any."""
        paths = sorted(self._path.glob("plugins/profile/*/*.xplane.pb"))
        if not paths:
            return []
        with self._damage(paths[-1].relative_to(self._path)):
            times = profiling.divide(profiling.read(paths[-1]))
            parts = [(part, ms) for part, ms in times.parts.items() if ms > 0]
            return [(part, f"{ms / times.ms:.1%}", profiling.PARTS[part]) for part, ms in parts]

    def choices(self) -> list[tuple[str, str, str]]:
        """Returns name, value and reason of the settings that may be `auto`."""
        replicas = {
            "name": self._resolved.get("replicas"),
            "why": self._resolved.get("replicas_why"),
        }
        found = {**self._resolved, "replicas": replicas}
        return [
            (name.replace("_", " "), str(choice["name"]), str(choice["why"]))
            for name, choice in found.items()
            if isinstance(choice, Mapping) and choice.get("name") and choice.get("why")
        ]

    def origin(self) -> dict[str, str]:
        """Returns the command that repeats the run, its time, versions and machine."""
        origin: dict[str, str] = {}
        if "data" in self._config:  # it was trained by the command
            asked = from_mapping(TrainConfig, asked_settings(self._path), where=str(self._path))
            origin["repeat it"] = as_command(shlex.join(["train", *flags_of(changed(asked))]))
        if self._config:
            versions, host = self._resolved.get("versions", {}), self._resolved.get("host", {})
            written = (self._path / run_files.CONFIG_FILE_NAME).stat().st_mtime
            origin["begun"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(written))
            origin["versions"] = ", ".join(
                f"{name} {version}" for name, version in versions.items()
            )
            with self._damage(run_files.CONFIG_FILE_NAME):
                origin["machine"] = f"{host['cpu']}, {host['cores']} cores" if host else ""
        return origin

    def settings(self) -> dict[str, Any]:
        """Returns the test loss, the length of the training, and the settings of the model and the
        optimizer."""
        facts = {name: self._summary.get(name) for name in _OF_SUMMARY}
        for group in (self._config.get("model"), self._config.get("optimizer")):
            facts |= group if isinstance(group, Mapping) else {}
        return {n.replace("_", " "): v for n, v in facts.items() if v is not None}

    def _damage(self, name: str | Path) -> AbstractContextManager[None]:
        return damage(self._path / name, what="a file of a run", remedy=_REMEDY)


def _drawable(curves: Mapping[str, Lines]) -> Curves:
    """Returns the curves of at least two points."""
    arrays = {
        title: {label: np.array(points, float).T for label, points in lines.items() if points}
        for title, lines in curves.items()
    }
    return {
        t: lines for t, lines in arrays.items() if any(line.shape[1] > 1 for line in lines.values())
    }
