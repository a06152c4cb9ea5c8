"""The parts of the script for the first hour that can be tested without a GPU."""

import subprocess
from pathlib import Path

import pytest
import tensorflow as tf

from benchmarks.gpu_first_hour import FailedError, Machine, compared, saved_model

PROJECT_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_tried(tmp_path: Path) -> None:
    done = subprocess.run(
        [PROJECT_ROOT / "scripts" / "gpu-first-hour"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "TensorFlow sees no GPU" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_losses_that_differ_fail() -> None:
    assert "2.0e-03" in compared([("run", [1.0, 0.5], [1.0, 0.501], 1e-2)])
    with pytest.raises(FailedError, match=r"2\.0e-03"):
        compared([("run", [1.0, 0.5], [1.0, 0.501], 1e-3)])


def test_losses_of_a_run() -> None:
    flags = ["--synthetic-rows", "1000", "--epochs", "1", "--batch-size", "200"]
    flags += ["--hidden-units", "4", "--dropout", "0", "--steps-per-dispatch", "2"]
    losses = Machine("synthetic", is_rehearsal=True).losses(*flags, on_cpu=True)
    assert len(losses) == 3  # two dispatches and an evaluation


def test_a_saved_model_is_evaluated_predicts_and_is_exported() -> None:
    report = saved_model(Machine("synthetic", is_rehearsal=True))
    assert report.count("(exit code 0)") == 4
