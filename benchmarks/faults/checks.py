"""Descriptions of a run's folder, by which runs can be compared, and checks for torn files."""

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_TIMES = ("seconds", "per_second", "telemetry")
"""Parts of the names in metrics.jsonl of values that differ from run to run."""
_TIME = re.compile("(?<=^events.out.tfevents).*")  # and the host, in an event file's name
_RESULTS = ("steps", "interrupted", "diverged", "test_loss", "test_accuracy", "batch_size")


def left_in(folder: Path) -> dict[str, Any]:
    """Describes everything in a run's folder that is the same in a run that repeats it. Raises a
    ValueError, OSError, KeyError or BadZipFile when a file is missing or damaged."""
    config = json.loads((folder / "config.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "files": sorted({_TIME.sub("", str(p.relative_to(folder))) for p in folder.rglob("*")}),
        "config.json": {k: v for k, v in config.items() if k not in ("output", "resolved")},
        "data": config["resolved"]["dataset"],
        "summary.json": {name: summary[name] for name in _RESULTS},
        "metrics.jsonl": [
            {k: v for k, v in json.loads(line).items() if not any(part in k for part in _TIMES)}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ],
        "model.keras": _members(folder / "model.keras"),
        **{path.name: _arrays(path) for path in sorted(folder.glob("checkpoints/*.npz"))},
        **_curves(folder),
    }


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Returns the differences between the contents of two folders, as `left_in` describes them."""
    return [
        f"{name} is {_short(found.get(name))}, and should be {_short(expected.get(name))}"
        for name in {**expected, **found}
        if found.get(name) != expected.get(name)
    ]


def half_written(folder: Path) -> list[str]:
    """Returns the files under final names that are not whole; in event files and metrics.jsonl, a
    kill may tear the last record."""
    torn = []
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix in (".npz", ".keras"):
                with zipfile.ZipFile(path) as archive:
                    archive.testzip()
        except (ValueError, zipfile.BadZipFile) as error:
            torn.append(f"{path.name} is half-written: {error}")
    return torn


def _members(path: Path) -> dict[str, str]:
    """Returns the model's network and a digest of its weights, without the archive's metadata,
    which have the time."""
    with zipfile.ZipFile(path) as archive:
        network = archive.read("config.json").decode()
        return {
            # Keras writes the addresses of objects.
            "network": re.sub(r'"shared_object_id": \d+', "", network),
            "weights": hashlib.sha256(archive.read("model.weights.h5")).hexdigest(),
        }


def _arrays(path: Path) -> dict[str, str]:
    """Describes the arrays of a file, but not its other contents, such as times, which differ from
    run to run."""
    with np.load(path) as arrays:
        return {
            name: f"{array.dtype}{list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()}"
            for name, array in arrays.items()
            if name not in ("about", "checksum")
        }


def _curves(folder: Path) -> dict[str, Any]:
    """Returns the points of each curve, in the order in which TensorBoard reads them, and the other
    tags.

    It leaves out what differs from run to run: rates, and what has a point for each stretch.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    curves: dict[str, list[tuple[int, float]]] = {}
    others = set()
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name != "scalars":
                    others.add(value.tag)
                elif not value.tag.startswith(("throughput/", "train/learning_rate", "~summary/")):
                    point = event.step, value.tensor.float_val[0]
                    curves.setdefault(value.tag, []).append(point)
    return {"curves": curves, "other tags": sorted(others)}


def _short(content: Any) -> str:
    text = str(content)
    return text if len(text) <= 1000 else f"{text[:500]} ... {text[-500:]}"
