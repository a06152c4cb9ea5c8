"""The parts of the script for the first hour that can be tested without a GPU."""

import subprocess
from pathlib import Path

import pytest
import tensorflow as tf

from benchmarks.gpu_first_hour import FailedError, compared

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
