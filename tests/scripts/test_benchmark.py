"""The suites of `scripts/benchmark` in one process, as that runs them."""

import subprocess
import sys

from tests.conftest import PROJECT_ROOT


def test_two_replicas_after_one() -> None:
    """Replicas of a CPU are shares of a batch, so one process can measure one and then two."""
    command = [sys.executable, "-m", "pytest", "benchmarks/test_step.py", "-v"]
    command += ["-k", "test_epoch and resident and 4096"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
