"""What a run's folder says of it: its settings, its summary and its learning curves."""

import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.base.reading import damage, read_json
from harness.run.observers import jsonl, run_files
from harness.tools.report.curves import Floats

_SHOWN = (
    *("test_loss", "epochs", "steps", "batch_size", "precision", "implementation", "replicas"),
    *("devices", "examples_per_second", "train_seconds", "compile_seconds", "wall_seconds"),
)
"""Keys of summary.json in the table."""
_REMEDY = "Restore or remove the file."


class Past(NamedTuple):
    """A run, as far as its folder has the files of one."""

    origin: dict[str, str]
    """When the model was trained, by which versions and on which machine."""
    facts: dict[str, Any]
    """How it was trained, and what came of it."""
    held_out: str
    """The rows that were evaluated after each epoch: `validation`, or without any `test`."""
    series: dict[str, Floats]
    """The steps and the values of each number in metrics.jsonl, [2, records]."""


def past(folder: Path) -> Past:
    """Reads the files of a run. Raises InputError when one is damaged."""
    paths = folder / run_files.CONFIG_FILE_NAME, folder / run_files.SUMMARY_FILE_NAME
    config = run_files.read_config(folder) if paths[0].is_file() else {}
    summary = read_json(paths[1], remedy=_REMEDY) if paths[1].is_file() else {}
    resolved, origin = config.get(run_files.RESOLVED, {}), {}
    if config:
        versions, host = resolved.get("versions", {}), resolved.get("host", {})
        begun = time.localtime(paths[0].stat().st_mtime)
        with damage(paths[0], what="the settings of a run", remedy=_REMEDY):
            origin = {
                "begun": time.strftime("%Y-%m-%d %H:%M", begun),
                "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
                "machine": f"{host['cpu']}, {host['cores']} cores" if host else "",
            }
    facts: dict[str, Any] = {}
    for group in (config.get("model"), config.get("optimizer")):
        facts |= group if isinstance(group, Mapping) else {}
    facts |= {name: summary.get(name) for name in _SHOWN}
    return Past(
        origin=origin,
        facts={name.replace("_", " "): v for name, v in facts.items() if v is not None},
        held_out="validation" if resolved.get("dataset", {}).get("validation_rows") else "test",
        series=_series(folder / jsonl.FILE_NAME),
    )


def _series(path: Path) -> dict[str, Floats]:
    found = defaultdict(list)
    for record in jsonl.records(path):
        names = record.keys() & {"accuracy", "validation_loss", "validation_accuracy"}
        if "num_steps" in record:  # a window: the others have seconds too, but of no training
            names |= {"loss", "seconds", "examples_per_second"}
        with damage(path, what="a record of a run", remedy=_REMEDY):
            for name in names:
                found[name].append((float(record["step"]), float(record[name])))
    return {name: np.array(points).T for name, points in found.items()}
