"""A few kills of the loop in benchmarks/."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.harness.cli.runs import REPOSITORY, environment


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, to build what makes faults")
def test_a_killed_run_ends_as_one_that_was_never_killed() -> None:
    flags = ("--kills", "2", "--seed", "3", "--epochs", "2")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults.kill_and_resume", *flags],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^2 kills, \d+ runs that came to their end, 0 failed$", done.stdout, re.M)
