"""What happened on the machine: judged from readings, from a process that really is busy, and from
an NVML library that answers from a script."""

import dataclasses
import json
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from harness.bench import machine
from tests.harness.observe.nvml import library
from tests.harness.observe.nvml.library import Nvml
from tests.harness.observe.samples import REPOSITORY

START = machine.Reading(awake=100.0, passed=150.0, others=1000.0, stolen=5.0)
CORES = psutil.cpu_count()
CODE = """
import json, sys, time
from harness.bench import machine
with machine.gpu_utilization(tuple(sys.argv[1:])) as percents:
    time.sleep(0.05)
print(json.dumps([machine.describe_gpus(), percents]))
"""


def later(**after: float) -> machine.Reading:
    """Ten seconds later, with nothing else than the measurement running."""
    usual = {"awake": 110.0, "passed": 160.0, "others": 1000.0, "stolen": 5.0}
    return dataclasses.replace(START, **(usual | after))


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({}, ()),
        ({"passed": 3760.0}, ("the machine slept for 3600.0 s",)),
        ({"others": 1000.0 + 10 * CORES}, (f"busy: other processes used {CORES:.1f} of {CORES}",)),
        ({"stolen": 5.0 + 5 * CORES}, (f"busy: the hypervisor withheld {CORES / 2:.1f} of",)),
        ({"others": 1000.1, "stolen": 5.1, "passed": 160.001}, ()),  # nothing worth a word
    ],
)
def test_marks(after: dict[str, float], expected: tuple[str, ...]) -> None:
    found = machine.marks(START, later(**after))
    assert len(found) == len(expected)
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True))


def test_a_busy_process_of_others_is_seen_and_one_of_ours_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        try:
            time.sleep(0.1)
            before, ours = machine.read(()), machine.read((spinning.pid,))
            time.sleep(0.5)
            marks = machine.marks(before, machine.read(()))
            after = machine.read((spinning.pid,))
        finally:
            spinning.kill()
    assert any(mark.startswith("busy: other processes used") for mark in marks)
    spent_by_others = after.others - ours.others
    assert spent_by_others < machine.read(()).others - before.others


def test_gpus_are_described_where_there_are_any() -> None:
    for described in machine.describe_gpus():  # none on a machine without NVIDIA's driver
        assert described["name"]
    with machine.gpu_utilization(()) as percents:
        pass
    assert percents == []


def ask(nvml: Nvml, *bus_ids: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *bus_ids],
        env=nvml.environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_gpus_are_described_and_watched_by_their_address(nvml: Nvml) -> None:
    nvml.write(
        library.system(),
        library.modern(0, utilization_percent=10),
        library.modern(1, utilization_percent=70),
        library.old(2),
        library.modern(3),
        [f"gpu3.* = error {library.ERROR_GPU_IS_LOST}"],
    )
    described, percents = ask(nvml, "0000:18:00.0")
    assert set(percents) == {70.0}
    assert [gpu["name"] for gpu in described] == [*["NVIDIA Fake 100"] * 2, "NVIDIA Old 10"]
    assert described[0] == {
        "name": "NVIDIA Fake 100",
        "uuid": "GPU-0f2c9b1e-0000-4000-8000-000000000000",
        "driver": "580.65.06",
        "memory_bytes": 80_000_000_000,
        "max_sm_clock_mhz": 1980,
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "power_limit_watts": 700.0,
    }
    assert described[2]["power_limit_watts"] is None


def test_a_slice_has_no_utilization_and_a_machine_may_have_no_gpu(nvml: Nvml) -> None:
    nvml.write(library.system(), library.modern(0, mig_mode=1), library.slice_of(0, 0))
    assert ask(nvml, "0000:17:00.0")[1] == []
    assert ask(nvml)[1] == []
    nvml.write([f"system.init = error {library.ERROR_DRIVER_NOT_LOADED}"])
    assert ask(nvml, "0000:17:00.0") == [[], []]
