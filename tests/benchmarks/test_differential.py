"""A sample of the random cases of benchmarks.differential, and the named ones.

They run in separate processes: TensorFlow keeps a part of every function that it has compiled.
"""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


# Of all twelve seeds in a row, these draw the most pairs of model, task, optimizer and settings.
@pytest.mark.parametrize("cases", ["--named", "--first 1000199 --cases 12"])
def test_the_trainer_gives_what_keras_gives(cases: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.differential", *cases.split()],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
