"""The cases that are judged, and the report on them."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT_ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import itertools, sys
from dataclasses import dataclass
from benchmarks.faults import judging

@dataclass(frozen=True)
class Number:
    value: int

    @property
    def kind(self):
        return "odd" if self.value % 2 else "even"

def judge(number):
    return ["it is three"] if number.value == 3 else []

numbers, seconds = NUMBERS, SECONDS
sys.exit(judging.judge_all(numbers, judge, jobs=2, seconds=seconds))
"""


@pytest.mark.parametrize(
    ("numbers", "seconds", "code", "lines"),
    [
        (
            "map(Number, range(5))",
            "600",
            1,
            [
                "    3 even",
                "    2 odd",
                "5 tried, 1 failed",
                "FAILED: Number(value=3): it is three",
            ],
        ),
        ("map(Number, range(3))", "600", 0, ["    1 odd", "    2 even", "3 tried, 0 failed"]),
        ("map(Number, itertools.count())", "0", 0, ["0 tried, 0 failed"]),
    ],
)
def test_cases_are_judged_until_the_deadline(
    numbers: str, seconds: str, code: int, lines: list[str]
) -> None:
    program = PROGRAM.replace("NUMBERS", numbers).replace("SECONDS", seconds)
    # A process of its own: this one has threads, which do not survive a fork.
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert sorted(done.stdout.splitlines()) == sorted(lines)
