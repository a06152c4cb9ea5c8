"""The checks of the folder of a run that lost, repeated or left something."""

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults import checks, trial
from harness.cli.main import main


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, logical_devices: list[str]) -> Path:
    """Returns the folder of an undisturbed run, which no test changes."""
    folder = tmp_path_factory.mktemp("left") / "run"
    assert main(["train", *trial.FLAGS, "--run-dir", str(folder)]) == 0
    return folder


def repeat_a_line(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    path.write_text(re.sub(r'(.*"step": 6.*\n)', r"\1\1", path.read_text()))


def change_a_weight(folder: Path) -> None:
    path = folder / "checkpoints" / "ckpt-8.npz"
    with np.load(path) as arrays:
        changed = dict(arrays)
    changed["model/logits/bias"] = np.nextafter(changed["model/logits/bias"], np.float32(1))
    np.savez(path, **changed)


def change_the_model(folder: Path) -> None:
    path = folder / "model.keras"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content + b"\0" * name.endswith(".h5"))


def repeat_the_curves(folder: Path) -> None:
    (path,) = (folder / "tensorboard").iterdir()
    shutil.copy(path, path.with_name(f"{path.name}.1"))


def cut_the_curves(folder: Path) -> None:
    (path,) = (folder / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:-1000])


def change_the_summary(folder: Path) -> None:
    path = folder / "summary.json"
    path.write_text(re.sub('"interrupted": false', '"interrupted": true', path.read_text()))


def leave_a_folder(folder: Path) -> None:
    (folder / "checkpoints" / ".partial-0").mkdir()


def remove_a_checkpoint(folder: Path) -> None:
    (folder / "checkpoints" / "ckpt-4.npz").unlink()


@pytest.mark.parametrize(
    ("harm", "names"),
    [
        (repeat_a_line, {"metrics.jsonl"}),
        (change_a_weight, {"ckpt-8.npz"}),
        (change_the_model, {"model.keras"}),
        (repeat_the_curves, {"curves"}),
        (cut_the_curves, {"curves", "other tags"}),
        (change_the_summary, {"summary.json"}),
        (leave_a_folder, {"files"}),
        (remove_a_checkpoint, {"files", "ckpt-4.npz"}),
    ],
)
def test_harm_is_found(
    left: Path, tmp_path: Path, harm: Callable[[Path], None], names: set[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(left, folder)
    expected = checks.left_in(folder)
    assert checks.differences(checks.left_in(folder), expected) == []
    harm(folder)
    found = checks.differences(checks.left_in(folder), expected)
    assert {line.partition(" is ")[0] for line in found} == names


@pytest.mark.parametrize("name", ["config.json", "model.keras", "checkpoints/ckpt-8.npz"])
def test_what_is_half_written_is_found(left: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(left, folder)
    assert checks.half_written(folder) == []
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (line,) = checks.half_written(folder)
    assert line.startswith(f"{path.name} is half-written")


def test_what_is_being_written_may_be_half_written(tmp_path: Path) -> None:
    (tmp_path / ".partial-0").mkdir()
    (tmp_path / ".partial-0" / "new.json").write_text("{")
    (tmp_path / ".partial-1.npz").write_text("PK")
    assert checks.half_written(tmp_path) == []
