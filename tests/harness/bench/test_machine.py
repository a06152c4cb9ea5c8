"""What happened on the machine: judged from readings, and from a process that really is busy."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.bench import gpu, machine

START = machine.Reading(awake=100.0, passed=150.0, busy=1000.0, stolen=5.0, own=10.0)
CORES = psutil.cpu_count()


def later(**after: float) -> machine.Reading:
    """Ten seconds later, with nothing else than the measurement running on one core."""
    usual = {"awake": 110.0, "passed": 160.0, "busy": 1010.0, "stolen": 5.0, "own": 20.0}
    return dataclasses.replace(START, **(usual | after))


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({}, ()),
        ({"passed": 3760.0}, ("the machine slept for 3600.0 s",)),
        ({"busy": 1010.0 + 10 * CORES}, (f"busy: other processes used {CORES:.1f} of {CORES}",)),
        ({"stolen": 5.0 + 5 * CORES}, (f"busy: the hypervisor withheld {CORES / 2:.1f} of",)),
        ({"busy": 1010.1, "stolen": 5.1, "passed": 160.001}, ()),  # nothing worth a word
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
    assert after.own - ours.own > 0.0
    assert after.busy - before.busy >= after.own - ours.own - 0.05


def test_the_state_of_the_code(tmp_path: Path) -> None:
    assert machine.code_state(tmp_path) == (None, None)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "a").write_text("1")
    for command in (["init", "-q"], ["add", "a"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    commit, dirty = machine.code_state(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    assert not dirty
    (tmp_path / "a").write_text("2")
    assert machine.code_state(tmp_path) == (commit, True)


def test_gpus_are_described_where_there_are_any() -> None:
    for described in gpu.describe():  # none on a machine without NVIDIA's driver
        assert described["name"]
    with gpu.Utilization(()) as utilization:
        pass
    assert utilization.median_percent is None
