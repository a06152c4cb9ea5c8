"""The checks of the folder of a run that lost, repeated or left something."""

import shutil
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


def change_a_weight(folder: Path) -> None:
    path = folder / "checkpoints" / "ckpt-8.npz"
    with np.load(path) as arrays:
        changed = dict(arrays)
    changed["model/logits/bias"] = np.nextafter(changed["model/logits/bias"], np.float32(1))
    np.savez(path, **changed)


def repeat_the_curves(folder: Path) -> None:
    (path,) = folder.glob("events*")
    shutil.copy(path, path.with_name(f"{path.name}.1"))


def leave_a_folder(folder: Path) -> None:
    (folder / "checkpoints" / ".partial-0").mkdir()


@pytest.mark.parametrize(
    ("harm", "names"),
    [
        (change_a_weight, {"ckpt-8.npz"}),
        (repeat_the_curves, {"curves"}),
        (leave_a_folder, {"files"}),
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
