"""The suite of `scripts/benchmark`, in one process as in the script."""

import subprocess
import sys

from tests.conftest import PROJECT_ROOT


def test_a_case_of_the_product() -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks", "-v"]
    command += ["-k", "imdb_500 and gather and forward and float32"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
