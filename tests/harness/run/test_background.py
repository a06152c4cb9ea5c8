"""The background thread, and observers on it: everything in order, and no failure is lost."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.run import background as module
from harness.run.background import Background, BackgroundObserver
from harness.run.records import (
    BatchesAwaited,
    BatchesReady,
    CheckpointDue,
    Compilation,
    Message,
    Observer,
    Record,
)
from tests.harness.run.observers.samples import run_start, summary, window


def expect(event: threading.Event) -> None:
    assert event.wait(120), "the test hangs"


@pytest.fixture(autouse=True)
def _none_before() -> None:
    """Checks that no test elsewhere left a thread, for which a test here would fail."""
    assert not threads()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "background" in thread.name]


def test_no_more_than_so_many_wait() -> None:
    go_on = threading.Event()
    handed_over: list[int] = []
    with Background() as background:

        def hand_over() -> None:
            for number in range(2 * module._MAX_WAITING):
                background.do(lambda: expect(go_on))
                handed_over.append(number)

        thread = threading.Thread(target=hand_over)
        thread.start()
        while len(handed_over) < module._MAX_WAITING + 1:  # one is being done
            time.sleep(0.001)
        thread.join(0.1)
        assert len(handed_over) == module._MAX_WAITING + 1
        go_on.set()
        thread.join(120)
        assert len(handed_over) == 2 * module._MAX_WAITING


def fail() -> None:
    raise OSError("disk full")


def test_a_failure_comes_out_of_the_next_call_and_nothing_is_done_after_it() -> None:
    done: list[str] = []
    with Background() as background:
        background.do(fail)

        def until_it_has_happened() -> None:
            while True:
                background.do(lambda: done.append("after it"))

        with pytest.raises(OSError, match="disk full"):
            until_it_has_happened()
        background.do(lambda: done.append("one more"))
    assert done == []


@pytest.mark.parametrize("other", [None, RuntimeError("of the training")])
def test_the_end_does_what_is_left_and_tells_a_failure_that_nobody_saw(
    other: Exception | None,
) -> None:
    done: list[str] = []
    go_on = threading.Event()

    def run() -> None:
        with Background() as background:
            background.do(lambda: expect(go_on))
            background.do(lambda: done.append("first"))
            background.do(fail)
            go_on.set()
            if other is not None:
                raise other

    with pytest.raises(OSError, match="disk full"):
        run()
    assert done == ["first"]
    assert not threads()


def interrupted(*tasks: Callable[[], None]) -> None:
    """Hands over tasks, and is interrupted once the first has begun."""
    begun = threading.Event()

    def first() -> None:
        begun.set()
        tasks[0]()

    def run() -> None:
        with Background() as background:
            background.do(first)
            for task in tasks[1:]:
                background.do(task)
            expect(begun)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()


def test_an_interrupt_drops_what_waits_and_lets_what_is_under_way_end() -> None:
    done: list[str] = []

    def write() -> None:
        time.sleep(0.2)
        done.append("under way")

    interrupted(write, lambda: done.append("waiting"))
    assert done == ["under way"]
    assert not threads()


def test_an_interrupt_leaves_behind_what_does_not_end() -> None:
    go_on = threading.Event()
    done: list[str] = []
    tasks = [lambda: expect(go_on)] * 5
    interrupted(*tasks, lambda: done.append("after it"))
    assert threads(), "the task still hangs"
    go_on.set()
    deadline = time.perf_counter() + 120
    while threads() and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert not threads()
    assert done == []


class Recorder(Observer):
    """Writes down whatever it is told, and by which thread."""

    def __init__(self, name: str, log: list[tuple[str, Any, int]]) -> None:
        self._name = name
        self._log = log

    def tell(self, record: Record) -> None:
        self._log.append((self._name, record, threading.get_ident()))

    def close(self) -> None:
        self._log.append((self._name, "closed", threading.get_ident()))


def test_every_record_arrives_in_order(tmp_path: Path) -> None:
    log: list[tuple[str, Any, int]] = []
    background = Background()
    observer = BackgroundObserver([Recorder("one", log), Recorder("other", log)], background)
    start, end = run_start(tmp_path), summary()
    between: list[Record] = [
        Compilation(program="training step", capacity=64, seconds=1.0, step=0),
        window(20),
        Message(kind="note", text="a note"),
        CheckpointDue(step=20),
    ]
    with background:
        for record in (start, BatchesAwaited(step=0), BatchesReady(step=0), *between, end):
            observer.tell(record)
    observer.close()
    assert [entry[:2] for entry in log] == [
        *((name, record) for record in (start, *between) for name in ("one", "other")),
        ("other", end),
        ("one", end),
        ("other", "closed"),
        ("one", "closed"),
    ]
    here = [record for _, record, thread in log if thread == threading.get_ident()]
    assert here == [start, start, end, end, "closed", "closed"]
    assert len({thread for *_, thread in log}) == 2
