"""Disturbances on the machine, judged from readings, and from a process that is really busy."""

import subprocess
import sys
import time

import psutil
import pytest

from harness.tools.bench.measure import Reading, marks_between, read_clocks

START = (100.0, 150.0, 1000.0)
CORES = psutil.cpu_count()


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((110.0, 160.0, 1000.0), ()),
        ((110.0, 3760.0, 1000.0), ("the machine slept for 3600.0 s",)),
        (
            (110.0, 160.0, 1000.0 + 10 * CORES),
            (f"busy: others used {CORES:.1f} of {CORES} cores",),
        ),
        ((110.0, 160.001, 1000.1), ()),  # nothing worth a word
    ],
)
def test_marks(after: Reading, expected: tuple[str, ...]) -> None:
    assert marks_between(START, after) == expected


def test_a_busy_process_of_others_is_seen_and_one_of_ours_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        try:
            time.sleep(0.1)
            before, ours = read_clocks(()), read_clocks((spinning.pid,))
            time.sleep(0.5)
            marks = marks_between(before, read_clocks(()))
            after = read_clocks((spinning.pid,))
        finally:
            spinning.kill()
    assert any(mark.startswith("busy: others used") for mark in marks)
    assert after[2] - ours[2] < read_clocks(())[2] - before[2]
