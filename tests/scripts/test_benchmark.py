"""The suites of `scripts/benchmark`, in one process as in the script."""

import subprocess
import sys

import pytest
import tensorflow as tf

from tests.conftest import PROJECT_ROOT


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU here")
def test_an_epoch_on_the_cpu() -> None:
    """Two replicas are not measured: a CPU would train them as one."""
    command = [sys.executable, "-m", "pytest", "benchmarks/test_step.py", "-v"]
    command += ["-k", "test_epoch and resident and 4096"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
