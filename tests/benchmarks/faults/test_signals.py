"""A few signals of the program in benchmarks/."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.harness.cli.runs import REPOSITORY, environment


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, to build what makes faults")
def test_no_signal_ends_a_run_otherwise_than_it_should() -> None:
    flags = ("--seconds", "1", "--signals", "20")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults.signals", *flags],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^products: exit code 0, [\d,]+ alarms", done.stdout, re.M)
    assert re.search(r"^training: \d+ signals in \d+ s, 20 handled$", done.stdout, re.M)
