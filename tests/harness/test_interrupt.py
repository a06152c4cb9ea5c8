"""Ctrl-C and SIGTERM: a wish at first, an order the second time."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.interrupt import Interrupt, Terminated, TerminatedAtOnce
from tests.harness.cli.runs import REPOSITORY, SMALL, command_line, environment, run, summary


def test_the_first_is_a_wish_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR1])
def test_a_machine_that_ends_is_a_wish_too(first: signal.Signals) -> None:
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGUSR1)}
    with Interrupt() as interrupt:
        signal.raise_signal(first)
        assert (interrupt.requested, interrupt.exit_code) == (True, 143)
        signal.raise_signal(signal.SIGUSR1)  # a scheduler may repeat it
        with pytest.raises(TerminatedAtOnce):
            signal.raise_signal(signal.SIGTERM)
        assert interrupt.by is first
    assert {kind: signal.getsignal(kind) for kind in before} == before
    assert Terminated().code == 143


def test_what_another_worker_was_told_counts_too() -> None:
    with Interrupt() as interrupt:
        assert not interrupt.told(0)
        assert interrupt.told(signal.SIGINT)
        assert interrupt.exit_code == 130
        assert interrupt.told(signal.SIGTERM)
        assert interrupt.told(signal.SIGINT)
        assert interrupt.exit_code == 143


def test_the_first_signal_of_a_worker_that_was_told_is_no_second_one() -> None:
    with Interrupt() as interrupt:
        assert interrupt.told(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.by is signal.SIGTERM
        with pytest.raises(TerminatedAtOnce):
            signal.raise_signal(signal.SIGTERM)


def test_a_program_that_handles_sigterm_still_does() -> None:
    calls = []
    before = signal.signal(signal.SIGTERM, lambda number, _: calls.append(number))
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGTERM)
        assert (calls, interrupt.requested) == ([signal.SIGTERM], False)
    finally:
        signal.signal(signal.SIGTERM, before)


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
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) == 143
        assert process.stderr is not None
        assert process.stderr.read() == "interrupted\n"
    os.close(filling)
    os.close(reader)


# A program that trains in Python, is told to end, and cleans up.
FITS = """
import os, signal, sys, threading
import keras, numpy as np
import harness
rng = np.random.default_rng(0)
sets = harness.RaggedSets(
    values=rng.integers(0, 50, 2000, dtype=np.int32),
    row_splits=np.arange(0, 2001, 10),
    labels=rng.integers(0, 2, 200, dtype=np.int32),
    num_tokens=50,
)
def model(inputs):
    return keras.layers.Dense(1)(harness.MultiHotDense(4, num_tokens=50)(inputs))
class Ends(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
trainer = harness.Trainer(model, batch_size=50, implementation="gather")
try:
    trainer.fit(sets, epochs=10**6, callbacks=[Ends()], run_dir=sys.argv[1], tensorboard="off")
finally:
    print("cleaned up after step", trainer.step)
print("never")
"""


def test_a_program_that_is_told_to_end_saves_and_ends(tmp_path: Path) -> None:
    ended = run([sys.executable, "-c", FITS, str(tmp_path / "run")])
    assert ended.code == 143, ended
    step = summary(tmp_path / "run")["steps"]
    assert step in (12, 16)  # the epoch's end, or the dispatch after
    assert f"interrupted after step {step} of 4,000,000" in ended.out
    assert "note: SIGUSR1: the training stops, the state is saved; --resume goes on" in ended.out
    assert ended.out.endswith(f"cleaned up after step {step}\n")
    assert (tmp_path / "run" / "checkpoints" / f"ckpt-{step}.npz").exists()
