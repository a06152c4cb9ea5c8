"""The parts of the script for the first hour that can be tested without a GPU."""

import subprocess
from pathlib import Path

import pytest
import tensorflow as tf

from benchmarks.gpu_first_hour import FailedError, complete

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


@pytest.mark.parametrize("closing", ["41 skipped in 2.1s", "40 passed, 1 skipped", "no tests ran"])
def test_a_part_that_skips_fails(closing: str) -> None:
    with pytest.raises(FailedError, match="Not everything ran"):
        complete(closing)
    assert complete("56 passed in 81.5s")
