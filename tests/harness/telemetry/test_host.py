"""Facts about the process, held against what the operating system shows from outside."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from harness.telemetry.host import host, peak_rss_bytes, versions

REPOSITORY = Path(__file__).resolve().parents[3]


def test_versions_are_those_installed() -> None:
    known = versions()
    assert set(known) == {"python", "harness", "tensorflow", "keras", "numpy", "tensorboard"}
    assert known["python"] == ".".join(map(str, sys.version_info[:3]))
    assert known["numpy"] == version("numpy")
    assert known["harness"] == version("multi-hot-harness")


def test_the_machine() -> None:
    facts = host()
    assert set(facts) == {"system", "cpu", "cores", "memory_bytes"}
    assert facts["system"]
    assert facts["cpu"]
    assert 1 <= facts["cores"] <= (os.cpu_count() or 1)
    assert facts["memory_bytes"] == psutil.virtual_memory().total
    json.dumps(facts)


def test_peak_memory_is_of_this_process_and_stays_when_memory_is_freed() -> None:
    script = (
        "from harness.telemetry.host import peak_rss_bytes\n"
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


def test_seconds_since_the_process_started() -> None:
    script = (
        "import time; first = time.time()\n"
        "from harness.telemetry.host import seconds_since_process_start\n"
        "time.sleep(0.2)\n"
        "print(seconds_since_process_start(), first, time.time())\n"
    )
    called = time.time()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    seconds, first, asked = map(float, done.stdout.split())
    # Linux counts in ticks of 10 ms. The start lies between our call and the script's first line.
    assert asked - first - 0.02 <= seconds <= asked - called + 0.02
