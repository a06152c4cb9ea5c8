"""What the files of a run folder say of the run: its throughput, its curves and its settings."""

import itertools
import shlex
import time
from collections import defaultdict
from collections.abc import Mapping
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

_GPU_CURVES = {  # the metrics that are drawn, each with the curve's title and unit
    "utilization_percent": ("GPU utilization, %", 1),
    "memory_used_bytes": ("GPU memory, GiB", 2**30),
    "power_watts": ("GPU power, W", 1),
}
_OF_SUMMARY = ("test_loss", "epochs", "steps", "batch_size", "devices")  # keys of summary.json
_REMEDY = "Restore or remove the file."

Points = list[tuple[float, float]]  # steps and values
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

    def figures(self) -> dict[str, Any]:
        """Returns the figures of the throughput, by name."""
        if not (found := self._summary):
            return {}
        with self._damage(run_files.SUMMARY_FILE_NAME):
            spent = {"training": found["train_seconds"], "compilation": found["compile_seconds"]}
            wall = found["wall_seconds"]
            spent["start, evaluation, other"] = max(0.0, wall - sum(spent.values()))
            rate, wait = found["steps_per_second"], found["data_wait_fraction"]
            figures = {
                "examples/s, median": found["examples_per_second"],
                "examples/s, mean": found["mean_examples_per_second"],
                "step time, ms": rate and 1e3 / rate,
                "data wait": None if wait is None else f"{wait:.1%}",
                "wall time": f"{wall:,.2f} s",
                **{name: f"{part:,.2f} s ({part / wall:.1%})" for name, part in spent.items()},
                "peak memory of the host": f"{found['peak_rss_bytes'] / 1e9:.2f} GB",
                **{f"GPU {n}": gpu_text(gpu) for n, gpu in enumerate(found.get("gpus", ()))},
                "joules per 1,000 examples": found.get("joules_per_1000_examples"),
            }
        return {name: value for name, value in figures.items() if value is not None}

    def curves(self) -> tuple[Curves, Curves]:
        """Returns the curves of the throughput, and those of the loss and the accuracy."""
        path = self._path / jsonl.FILE_NAME  # read twice, as a long run's may not fit the memory
        has_own = self._resolved.get("dataset", {}).get("validation_rows")
        prefixes = {"training": "", "validation" if has_own else "test": "validation_"}
        rates: defaultdict[str, dict[str, Points]] = defaultdict(dict)
        learning: dict[str, dict[str, Points]] = {"loss": {}, "accuracy": {}}
        with self._damage(jsonl.FILE_NAME):
            windows = (record for record in jsonl.records(path) if "num_steps" in record)
            stretches = stretches_of(windows, batch_size=1)  # these rates do not depend on it
            rates["examples/s"][""] = [(s.step, s.examples_per_second) for s in stretches]
            rates["data wait, %"][""] = [(s.step, 100 * s.data_wait_fraction) for s in stretches]
            for record in jsonl.records(path):
                step = record["step"]
                for tag, spread in record.get("telemetry", {}).items():
                    device, number, metric = f"{tag}//".split("/")[:3]
                    if device == "gpu" and metric in _GPU_CURVES:
                        title, unit = _GPU_CURVES[metric]
                        points = rates[title].setdefault(f"GPU {number}", [])
                        points.append((step, spread["mean"] / unit))
                for name, (label, prefix) in itertools.product(learning, prefixes.items()):
                    if prefix + name in record:
                        points = learning[name].setdefault(label, [])
                        points.append((step, record[prefix + name]))
            return _drawable(rates), _drawable(learning)

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


def _drawable(curves: Mapping[str, Mapping[str, Points]]) -> Curves:
    """Returns the curves of at least two points."""
    return {
        title: {label: np.array(points, float).T for label, points in lines.items()}
        for title, lines in curves.items()
        if any(len(points) > 1 for points in lines.values())
    }
