"""Ctrl-C and SIGTERM: a wish at first, an order the second time."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.base.interrupt import (
    Interrupt,
    Terminated,
    TerminatedAtOnce,
    threads_without_signals,
)
from tests.harness.cli.runs import (
    environment,
    run,
    summary,
)


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


def test_an_error_in_place_of_an_interrupt_is_that_interrupt() -> None:
    """TensorFlow raises one, where the interrupt comes while it handles an error of its own."""

    def train() -> None:
        with Interrupt():
            signal.raise_signal(signal.SIGTERM)
            try:
                signal.raise_signal(signal.SIGTERM)
            except TerminatedAtOnce as order:
                raise RuntimeError("error_already_set: MISMATCH") from order

    with pytest.raises(TerminatedAtOnce):
        train()


def test_what_another_worker_was_told_counts_too() -> None:
    with Interrupt() as interrupt:
        assert not interrupt.told(0)
        assert interrupt.told(signal.SIGINT)
        assert interrupt.exit_code == 130
        assert interrupt.told(signal.SIGTERM)
        assert interrupt.told(signal.SIGINT)
        assert interrupt.exit_code == 143


def test_a_program_that_handles_sigterm_still_does() -> None:
    calls = []
    before = signal.signal(signal.SIGTERM, lambda number, _: calls.append(number))
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGTERM)
        assert (calls, interrupt.requested) == ([signal.SIGTERM], False)
    finally:
        signal.signal(signal.SIGTERM, before)


ASYNCIO = """
import asyncio, signal
from harness.base.interrupt import Interrupt

async def training():
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
    assert not interrupt.requested
    await asyncio.wait_for(told.wait(), 10)

asyncio.run(training())
"""


def test_a_program_of_asyncio_that_handles_sigterm_still_does() -> None:
    """In a process of its own: the browser's tests leave a loop running in this one."""
    done = subprocess.run([sys.executable, "-c", ASYNCIO], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.fixture
def hangup() -> Iterator[None]:
    """Restores the handler of SIGHUP afterwards."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


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


def test_threads_that_start_without_signals_leave_them_to_the_main_thread() -> None:
    with Interrupt() as interrupt:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        with threads_without_signals(), ThreadPoolExecutor(1) as pool:
            blocked = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result()
            signal.raise_signal(signal.SIGTERM)
            assert not interrupt.requested
        assert interrupt.by is signal.SIGTERM  # it has waited
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP} <= blocked
    assert signal.SIGSEGV not in blocked


IN_C = """
import ctypes, sys, threading
from harness.base.interrupt import Interrupt

libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
libc.pthread_mutex_lock(mutex)
with Interrupt() as interrupt:
    interrupt.nothing_to_save = sys.argv[1:] == ["nothing to save"]
    threading.Timer(0.3, print, ["ready"], {"flush": True}).start()
    libc.pthread_mutex_lock(mutex)  # without end, whatever signal comes
"""


@pytest.mark.parametrize(
    ("number", "times", "arguments"),
    [(signal.SIGINT, 2, []), (signal.SIGTERM, 2, []), (signal.SIGTERM, 1, ["nothing to save"])],
)
def test_an_order_ends_a_program_that_is_in_c(
    number: signal.Signals, times: int, arguments: list[str]
) -> None:
    command = [sys.executable, "-c", IN_C, *arguments]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.2)  # two that wait at the same time are one
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, errors) == (128 + number, "interrupted\n")


# A program that trains in Python, is told to end, and cleans up.
FITS = """
import os, signal, sys
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
    folder = tmp_path / "run"
    ended = run([sys.executable, "-c", FITS, str(folder)], env=environment())
    assert ended.code == 143, ended
    step = summary(folder)["steps"]
    assert step in (12, 16)  # the epoch's end, or the dispatch after
    assert f"interrupted after step {step} of 4,000,000" in ended.out
    assert "note: SIGUSR1: the training stops, the state is saved; --resume goes on" in ended.out
    assert ended.out.endswith(f"cleaned up after step {step}\n")
    assert (folder / "checkpoints" / f"ckpt-{step}.npz").exists()
