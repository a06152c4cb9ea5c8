"""Ctrl-C: a wish at first, an order the second time."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.interrupt import Interrupt
from tests.harness.cli.runs import REPOSITORY, SMALL, command_line, environment


def test_the_first_is_a_wish_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_afterwards_everything_is_as_before() -> None:
    with Interrupt():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def hangup() -> Iterator[None]:
    """Puts back what SIGHUP did before."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
def test_a_closed_terminal_is_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which would end this process
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGHUP)
    assert not interrupt.requested
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.usefixtures("hangup")
def test_a_program_that_handles_a_closed_terminal_still_does() -> None:
    calls = []
    signal.signal(signal.SIGHUP, lambda number, _: calls.append(number))
    with Interrupt():
        signal.raise_signal(signal.SIGHUP)
    assert calls == [signal.SIGHUP]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupt():
        pass
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_outside_of_the_main_thread_no_signal_is_touched() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP)

    def within() -> tuple[Any, Any]:
        with Interrupt():
            return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(within).result() == before


def num_evaluations(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count("validation_loss") if path.exists() else 0


def test_the_second_ends_a_run_whose_output_nobody_reads(tmp_path: Path) -> None:
    """Nor does it wait for the thread that writes to the pipe in vain."""
    flags = ("--epochs", "100000", "--run-dir", tmp_path)
    reader, writer = os.pipe()
    # Opened anew, so that only this process does not wait for room.
    filling = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK)
    with subprocess.Popen(
        command_line("train", *SMALL, *flags),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=environment(),
    ) as process:
        os.close(writer)

        def wait_for_an_evaluation() -> None:
            before = num_evaluations(tmp_path)
            while num_evaluations(tmp_path) == before:
                time.sleep(0.1)
                assert process.poll() is None, "it ended before"

        wait_for_an_evaluation()
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(filling, b".")
        wait_for_an_evaluation()  # which is printed after it is written: for that there is no room
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        assert process.stderr is not None
        assert process.stderr.read() == "interrupted\n"
    os.close(filling)
    os.close(reader)
