"""A sample of the random cases of benchmarks.differential, and the named ones.

They run in separate processes: TensorFlow keeps a part of every function that it has compiled.
"""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


# Between the two ranges is a case that two workers train, which takes as long as ten others.
@pytest.mark.parametrize(
    "cases", ["--first 1000000 --cases 12", "--first 1000022 --cases 12", "--named"]
)
def test_the_trainer_gives_what_keras_gives(cases: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.differential", *cases.split()],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
