"""The background: in order, beside the others, and no failure is lost."""

import threading

import pytest

from harness import background as module
from harness.background import Background


def expect(event: threading.Event) -> None:
    assert event.wait(30), "the test hangs"


def test_in_order_on_one_thread_of_its_own() -> None:
    background = Background()
    done: list[tuple[int, int]] = []
    for number in range(1000):
        background.do(lambda number=number: done.append((number, threading.get_ident())))
    background.wait()
    assert [number for number, _ in done] == list(range(1000))
    assert len({thread for _, thread in done} | {threading.get_ident()}) == 2
    background.close()


def test_who_hands_a_task_over_goes_on_at_once() -> None:
    background = Background()
    go_on, done = threading.Event(), threading.Event()
    background.do(lambda: expect(go_on))
    background.do(done.set)
    assert not done.is_set()
    go_on.set()
    background.close()
    assert done.is_set()


def test_no_more_than_so_many_wait() -> None:
    background = Background()
    go_on = threading.Event()
    handed_over: list[int] = []

    def hand_over() -> None:
        for number in range(2 * module._MAX_WAITING):
            background.do(lambda: expect(go_on))
            handed_over.append(number)

    thread = threading.Thread(target=hand_over)
    thread.start()
    thread.join(0.5)
    assert len(handed_over) == module._MAX_WAITING
    go_on.set()
    thread.join(30)
    assert len(handed_over) == 2 * module._MAX_WAITING
    background.close()


def fail() -> None:
    raise OSError("disk full")


def test_a_failure_comes_out_of_the_next_call_and_nothing_is_done_after_it() -> None:
    background = Background()
    done: list[str] = []
    background.do(fail)

    def until_it_has_happened() -> None:
        while True:
            background.do(lambda: done.append("after it"))

    with pytest.raises(OSError, match="disk full"):
        until_it_has_happened()
    background.do(lambda: done.append("one more"))
    background.close()
    assert done == []


def test_a_failure_comes_out_of_wait_once() -> None:
    background = Background()
    done: list[str] = []
    go_on = threading.Event()
    background.do(lambda: expect(go_on))
    background.do(fail)
    background.do(lambda: done.append("after it"))
    go_on.set()
    with pytest.raises(OSError, match="disk full"):
        background.wait()
    background.wait()
    background.close()
    assert done == []


def test_close_does_what_is_left_and_tells_a_failure_that_nobody_saw() -> None:
    background = Background()
    done: list[str] = []
    go_on = threading.Event()
    background.do(lambda: expect(go_on))
    background.do(lambda: done.append("first"))
    background.do(fail)
    go_on.set()
    with pytest.raises(OSError, match="disk full"):
        background.close()
    assert done == ["first"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("background")]


def test_unused_it_has_no_thread() -> None:
    background = Background()
    background.wait()
    background.close()
