"""The background thread, with sources that wait for the test: no test depends on how long."""

import contextlib
import itertools
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from harness.observe.sampler import Read, Sample, Sampler, Source, Tell
from harness.records import Message
from tests.harness.observe.samples import REPOSITORY

PATIENCE_SECONDS = 120.0


def source_of(read: Read, *, on_close: Callable[[], None] = lambda: None) -> Source:
    @contextlib.contextmanager
    def source(tell: Tell) -> Iterator[Read]:
        tell(Message(kind="note", text="opened"))
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
    sampler = Sampler("it", source_of(read, on_close=lambda: closed.append(True)), hz=100.0)
    before = time.perf_counter()
    sampler.start()
    taken: list[Sample] = []

    def five() -> bool:
        taken.extend(sampler.take(math.inf))
        return len(taken) >= 5

    wait_until(five)
    assert sampler.stop(PATIENCE_SECONDS)
    taken += sampler.take(math.inf)
    assert [sample.values["number"] for sample in taken] == list(range(len(taken)))
    assert sorted(sample.seconds for sample in taken) == [sample.seconds for sample in taken]
    assert before < taken[0].seconds <= taken[-1].seconds < time.perf_counter()
    assert threading.current_thread() not in threads
    assert [message.text for message in sampler.messages()] == ["opened"]
    assert list(sampler.messages()) == []
    assert closed == [True]
    assert sampler.silent_seconds == 0.0


def test_what_was_sampled_later_stays_for_later() -> None:
    readings: Iterator[dict[str, float] | None] = iter([{}, {}, {}, None])
    clock = itertools.count()
    sampler = Sampler("it", source_of(lambda: next(readings)), hz=100.0, clock=lambda: next(clock))
    sampler.start()
    wait_until(lambda: not sampler._thread.is_alive())
    found = 0
    for now in range(next(clock)):
        for sample in sampler.take(now):
            assert sample.seconds == now
            found += 1
    assert found == 3


def test_stopping_takes_a_last_sample_without_waiting_for_its_turn() -> None:
    sampler = Sampler("it", source_of(lambda: {"a": 1.0}), hz=0.01)
    sampler.start()
    taken: list[Sample] = []

    def first() -> bool:
        taken.extend(sampler.take(math.inf))
        return len(taken) == 1

    wait_until(first)
    assert sampler.stop(PATIENCE_SECONDS)
    assert len(sampler.take(math.inf)) == 1


def test_a_call_that_hangs_is_left_behind() -> None:
    release = threading.Event()
    reached = threading.Event()

    def read() -> dict[str, float]:
        reached.set()
        assert release.wait(PATIENCE_SECONDS)
        return {}

    sampler = Sampler("it", source_of(read), hz=100.0)
    sampler.start()
    assert reached.wait(PATIENCE_SECONDS)
    wait_until(lambda: sampler.silent_seconds > 0.01)
    assert not sampler.stop(0.0)
    release.set()
    assert sampler.stop(PATIENCE_SECONDS)


def test_a_source_that_ends_ends_the_thread() -> None:
    readings = iter([{"a": 1.0}, None])
    sampler = Sampler("it", source_of(lambda: next(readings)), hz=100.0)
    sampler.start()
    wait_until(lambda: not sampler._thread.is_alive())
    assert len(sampler.take(math.inf)) == 1
    assert sampler.silent_seconds == 0.0


def test_a_sampler_that_never_started_stops() -> None:
    assert Sampler("it", source_of(lambda: None), hz=1.0).stop(0.0)


DEFECT = """
import math, time
from tests.harness.observe.test_sampler import source_of
from harness.observe.sampler import Sampler
sampler = Sampler("GPUs", source_of(lambda: {"a": 1 / 0}), hz=1.0)
sampler.start()
sampler.stop(120)
print([message.text for message in sampler.messages()])
"""


def test_a_defect_is_told_and_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEFECT], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "telemetry of the GPUs failed, training continues: ZeroDivision" in done.stdout
    assert "Traceback" in done.stderr


HANGING = """
import threading
from tests.harness.observe.test_sampler import source_of
from harness.observe.sampler import Sampler
reached = threading.Event()
def read():
    reached.set()
    threading.Event().wait()
sampler = Sampler("GPUs", source_of(read), hz=1.0)
sampler.start()
reached.wait()
print(sampler.stop(0.0))
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
    assert (done.stdout, done.stderr) == ("False\n", "")
