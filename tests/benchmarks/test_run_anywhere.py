"""The benchmarks that CONTRIBUTING names run to their end on a machine of any speed."""

import re
import subprocess
import sys
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def run(module: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *flags],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_observers_cost() -> None:
    # Turns of one epoch, as longer ones are on a slow machine.
    done = run("observers_cost", "--rounds", "2", "--seconds", "0.001")
    # Too short to judge by: its verdict is either.
    assert done.returncode in (0, 1), done.stderr
    assert re.search(r"^bar 0\.98: (met|missed)$", done.stdout, re.MULTILINE), done.stderr
    assert re.search(r"^on: [\d,]+ examples/s", done.stdout, re.MULTILINE)


def test_what_checkpoints_cost() -> None:
    done = run("checkpoint_cost", "--rounds", "2", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^held_up_ms: -?[\d.]+ ms a checkpoint", done.stdout, re.MULTILINE)


def test_threads() -> None:
    """Over fewer steps than the benchmark's own 20,000."""
    done = run("threads", "--steps", "400")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ threads at first, \d+ at last, \d+ at most$", done.stdout, re.MULTILINE)
