"""The background: in order, beside the others, and no failure is lost."""

import threading
import time
from collections.abc import Callable

import pytest

from harness import background as module
from harness.background import Background


def expect(event: threading.Event) -> None:
    assert event.wait(30), "the test hangs"


@pytest.fixture(autouse=True)
def _none_before() -> None:
    """A test elsewhere that left one would be taken for one that fails here."""
    assert not threads()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "background"]


def test_in_order_on_one_thread_of_its_own() -> None:
    done: list[tuple[int, int]] = []
    with Background() as background:
        for number in range(1000):
            background.do(lambda number=number: done.append((number, threading.get_ident())))
        background.wait()
        assert [number for number, _ in done] == list(range(1000))
        assert len({thread for _, thread in done} | {threading.get_ident()}) == 2
    assert not threads()


def test_who_hands_a_task_over_goes_on_at_once_and_the_end_waits_for_it() -> None:
    go_on, done = threading.Event(), threading.Event()
    with Background() as background:
        background.do(lambda: expect(go_on))
        background.do(done.set)
        assert not done.is_set()
        go_on.set()
    assert done.is_set()


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
        thread.join(0.5)
        assert len(handed_over) == module._MAX_WAITING + 1, "one is being done"
        go_on.set()
        thread.join(30)
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


def test_a_failure_comes_out_of_wait_once() -> None:
    done: list[str] = []
    go_on = threading.Event()
    with Background() as background:
        background.do(lambda: expect(go_on))
        background.do(fail)
        background.do(lambda: done.append("after it"))
        go_on.set()
        with pytest.raises(OSError, match="disk full"):
            background.wait()
        background.wait()
        expect(background.do(lambda: done.append("dropped")))  # who waits for it is not held up
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


def interrupted(*tasks: Callable[[], None]) -> float:
    """Hands tasks over and, when the first has begun, is interrupted; returns the seconds that it
    takes to end."""
    begun = threading.Event()

    def run() -> None:
        with Background() as background:
            background.do(lambda: (begun.set(), tasks[0]())[1])
            for task in tasks[1:]:
                background.do(task)
            expect(begun)
            raise KeyboardInterrupt

    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        run()
    return time.perf_counter() - start


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
    assert interrupted(*tasks, lambda: done.append("after it")) < 10
    assert threads(), "the task still hangs"
    go_on.set()
    deadline = time.perf_counter() + 30
    while threads() and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert not threads()
    assert done == []


def test_unused_it_has_no_thread() -> None:
    with Background() as background:
        background.wait()
        assert not threads()
