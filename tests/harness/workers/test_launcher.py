"""The launcher of workers, with small programs in their place."""

import io
import signal
import sys
import time

import pytest

from harness.workers import launcher
from harness.workers.launcher import run_job

WHO = "import os, sys, time; i = int(os.environ['OMPI_COMM_WORLD_RANK']); "


def program(text: str) -> list[str]:
    return [sys.executable, "-c", WHO + text]


def run(text: str, *, workers: int = 2) -> tuple[int, list[str], list[str]]:
    """Runs a job; returns the exit code, and the lines printed to both streams."""
    out, errors = io.StringIO(), io.StringIO()
    code = run_job(workers, program(text), out=out, errors=errors)
    return code, sorted(out.getvalue().splitlines()), errors.getvalue().splitlines()


def test_one_that_fails_ends_all_and_what_all_say_is_said_once() -> None:
    start = time.monotonic()
    code, out, errors = run(
        "print('error: the same', file=sys.stderr, flush=True); "
        "sys.exit(3) if i else time.sleep(99)"
    )
    assert (code, out) == (3, [])
    assert [line.partition(" ")[2] for line in errors[:1]] == ["error: the same"]
    assert errors[1:] == ["worker 1 ended with exit code 3, and so the job"]
    assert time.monotonic() - start < 90  # of the 99 that the other would sleep


def test_a_signal_that_ends_a_worker_is_named_and_wrong_input_is_not() -> None:
    code, _, errors = run("os.kill(os.getpid(), 9) if i else time.sleep(99)")
    assert (code, errors) == (137, ["worker 1 ended with signal 9, and so the job"])
    code, out, errors = run("print('x'); sys.exit(2)", workers=1)
    assert (code, out, errors) == (2, ["[0] x"], [])


def test_a_signal_reaches_the_workers() -> None:
    text = (
        "import signal; signal.signal(15, lambda *_: sys.exit(143)); "
        "[(os.kill(os.getppid(), 15), time.sleep(0.2)) for _ in range(500 if i else 0)]; "
        "time.sleep(99)"
    )
    # One that comes before the job listens must not end this process.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        code, _, errors = run(text)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (code, errors) == (143, [])


def test_lines_get_the_number_of_their_worker_which_has_its_place_in_one_cluster() -> None:
    names = "HARNESS_CLUSTER_CHIEF", "HARNESS_CLUSTER_TOKEN", "OMPI_COMM_WORLD_SIZE"
    text = f"print(i, *(os.environ[name] for name in {names})); print('no end', end='')"
    code, out, errors = run(text, workers=3)
    assert (code, errors) == (0, [])
    assert out[1::2] == [f"[{i}] no end" for i in range(3)]
    places = [line.split() for line in out[::2]]
    assert [place[:2] for place in places] == [[f"[{i}]", f"{i}"] for i in range(3)]
    assert len({tuple(place[2:]) for place in places}) == 1
    assert places[0][2].startswith("localhost:")
    assert (len(places[0][3]), places[0][4]) == (64, "3")


def test_a_worker_that_ignores_signals_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_GRACE_SECONDS", 0.5)
    text = "import signal; signal.signal(15, signal.SIG_IGN); print(i, flush=True); "
    code, _, errors = run(text + "time.sleep(0.5); sys.exit(1) if i else time.sleep(99)")
    assert (code, errors) == (1, ["worker 1 ended with exit code 1, and so the job"])
