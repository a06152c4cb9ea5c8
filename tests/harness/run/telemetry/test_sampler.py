"""The background thread, with sources that wait for the test: no test depends on how long."""

import contextlib
import itertools
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from harness.run.telemetry.sampler import Read, Sample, Sampler, TelemetrySource, Tell
from tests.harness.run.observers.samples import REPOSITORY

PATIENCE_SECONDS = 120.0


def source_of(read: Read, *, on_close: Callable[[], None] = lambda: None) -> TelemetrySource:
    @contextlib.contextmanager
    def source(tell: Tell) -> Iterator[Read]:
        tell("note", "opened")
        yield read
        on_close()

    return source


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def test_samples_come_in_order_and_are_taken_up_to_a_time() -> None:
    numbers = itertools.count()
    threads = set()

    def read() -> dict[str, float]:
        threads.add(threading.current_thread())
        return {"number": float(next(numbers))}

    closed: list[bool] = []
    sampler = Sampler(source_of(read, on_close=lambda: closed.append(True)), hz=100.0)
    before = time.perf_counter()
    sampler.start()
    taken: list[Sample] = []

    def five() -> bool:
        taken.extend(sampler.take(math.inf))
        return len(taken) >= 5

    wait_until(five)
    sampler.stop()
    taken += sampler.take(math.inf)
    assert [sample.values["number"] for sample in taken] == list(range(len(taken)))
    assert sorted(sample.seconds for sample in taken) == [sample.seconds for sample in taken]
    assert before < taken[0].seconds <= taken[-1].seconds < time.perf_counter()
    assert threading.current_thread() not in threads
    assert [message.text for message in sampler.messages()] == ["opened"]
    assert list(sampler.messages()) == []
    assert closed == [True]


def test_stopping_takes_a_last_sample_without_waiting_for_its_turn() -> None:
    sampler = Sampler(source_of(lambda: {"a": 1.0}), hz=0.01)
    sampler.start()
    taken: list[Sample] = []

    def first() -> bool:
        taken.extend(sampler.take(math.inf))
        return len(taken) == 1

    wait_until(first)
    sampler.stop()
    assert len(sampler.take(math.inf)) == 1


def test_a_call_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.run.telemetry.sampler.STOP_SECONDS", 0.01)
    release, reached = threading.Event(), threading.Event()

    def read() -> dict[str, float]:
        reached.set()
        assert release.wait(PATIENCE_SECONDS)
        return {}

    sampler = Sampler(source_of(read), hz=100.0)
    sampler.start()
    assert reached.wait(PATIENCE_SECONDS)
    sampler.stop()
    assert "telemetry has had no answer" in [message.text for message in sampler.messages()][-1]
    release.set()
    wait_until(lambda: not sampler._thread.is_alive())


DEFECT = """
import math, time
from tests.harness.run.telemetry.test_sampler import source_of
from harness.run.telemetry.sampler import Sampler
sampler = Sampler(source_of(lambda: {"a": 1 / 0}), hz=1.0)
sampler.start()
sampler.stop()
print([message.text for message in sampler.messages()])
"""


def test_a_defect_is_told_and_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEFECT], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "telemetry failed, training continues: ZeroDivision" in done.stdout
    assert "Traceback" in done.stderr


HANGING = """
import threading
from tests.harness.run.telemetry.test_sampler import source_of
from harness.run.telemetry import sampler as module
from harness.run.telemetry.sampler import Sampler
module.STOP_SECONDS = 0.01
reached = threading.Event()
def read():
    reached.set()
    threading.Event().wait()
sampler = Sampler(source_of(read), hz=1.0)
sampler.start()
reached.wait()
sampler.stop()
"""


def test_a_hanging_call_keeps_no_process_alive() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("", "")
