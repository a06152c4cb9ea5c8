"""What a run's folder says of it: its settings, its summary and its learning curves."""

import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def held_out(folder: Path) -> str:
    """Returns which rows were evaluated after each epoch: `validation`, or without any `test`."""
    path = folder / run_files.CONFIG_FILE_NAME
    known = run_files.read_config(folder)[run_files.RESOLVED] if path.is_file() else {}
    return "validation" if known.get("dataset", {}).get("validation_rows") else "test"


def origin(folder: Path) -> dict[str, str]:
    """When a model was trained, by which versions and on which machine, as far as the folder has
    the files of a run.

    Raises:
        InputError: when config.json is damaged.
    """
    path = folder / run_files.CONFIG_FILE_NAME
    if not path.is_file():
        return {}
    known, seconds = run_files.read_config(folder)[run_files.RESOLVED], path.stat().st_mtime
    versions, host = known.get("versions", {}), known.get("host", {})
    with damage(path, what="the settings of a run", remedy=_REMEDY):
        return {
            "begun": time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)),
            "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
            "machine": f"{host['cpu']}, {host['cores']} cores" if host else "",
        }


def facts(folder: Path) -> dict[str, Any]:
    """How a model was trained and what came of it, as far as the folder has the files of a run.

    Raises:
        InputError: when one is damaged.
    """
    paths = folder / run_files.CONFIG_FILE_NAME, folder / run_files.SUMMARY_FILE_NAME
    config, summary = (read_json(p, remedy=_REMEDY) if p.is_file() else {} for p in paths)
    found: dict[str, Any] = {}
    for group in (config.get("model"), config.get("optimizer")):
        found |= group if isinstance(group, Mapping) else {}
    found |= {name: summary.get(name) for name in _SHOWN}
    return {name.replace("_", " "): value for name, value in found.items() if value is not None}


def series(folder: Path) -> dict[str, Floats]:
    """The steps and the values of each number in metrics.jsonl, [2, records]; empty without it.

    Raises:
        InputError: when it is damaged.
    """
    path = folder / jsonl.FILE_NAME
    found = defaultdict(list)
    for record in jsonl.records(path):
        names = record.keys() & {"accuracy", "validation_loss", "validation_accuracy"}
        if "num_steps" in record:  # a window: the others have seconds too, but of no training
            names |= {"loss", "seconds", "examples_per_second"}
        with damage(path, what="a record of a run", remedy=_REMEDY):
            for name in names:
                found[name].append((float(record["step"]), float(record[name])))
    return {name: np.array(points).T for name, points in found.items()}
