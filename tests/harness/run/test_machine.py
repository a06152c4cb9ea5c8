"""Facts about the process, held against what the operating system shows from outside."""

import os
import subprocess
import sys
from pathlib import Path

from harness.run.machine import host, peak_rss_bytes

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_cores_are_those_of_this_process() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert host()["cores"] == 1
    finally:
        os.sched_setaffinity(0, before)


def test_peak_memory_is_of_this_process_and_stays_when_memory_is_freed() -> None:
    script = (
        "from harness.run.machine import peak_rss_bytes\n"
        "before = peak_rss_bytes()\n"
        "block = bytearray(200_000_000)\n"
        "during = peak_rss_bytes()\n"
        "del block\n"
        "print(before, during, peak_rss_bytes())\n"
    )
    # The parent is large: its memory must not count.
    ballast = bytearray(300_000_000)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    before, during, after = map(int, done.stdout.split())
    assert before < 100e6
    assert 195e6 < during - before < 250e6
    assert after > during - 1e6  # the kernel counts in batches for each thread
    assert peak_rss_bytes() >= len(ballast)
