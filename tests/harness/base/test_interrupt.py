"""Ctrl-C and SIGTERM: a wish at first, an order the second time."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import harness
from harness.base.interrupt import (
    Interrupt,
    Terminated,
    TerminatedAtOnce,
    threads_without_signals,
)
from tests.harness.cli.runs import summary
from tests.harness.random_sets import random_sets


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGINT, KeyboardInterrupt, 130),
        (signal.SIGTERM, TerminatedAtOnce, 143),
        (signal.SIGUSR1, TerminatedAtOnce, 143),
    ],
)
def test_the_first_is_a_wish_and_the_second_interrupts(
    first: signal.Signals, second: type[BaseException], code: int
) -> None:
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [*map(signal.getsignal, kinds)]
    with Interrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(first)
        assert (interrupt.requested, interrupt.exit_code) == (True, code)
        signal.raise_signal(signal.SIGUSR1)  # a scheduler may repeat it
        with pytest.raises(second):
            signal.raise_signal(signal.SIGINT if code == 130 else signal.SIGTERM)
        assert interrupt.by is first
    assert [*map(signal.getsignal, kinds)] == before
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


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_handles_or_ignores_a_signal_still_does(kind: signal.Signals) -> None:
    calls = []
    before = signal.signal(kind, lambda number, _: calls.append(number))
    try:
        for expected in ([kind], []):
            with Interrupt() as interrupt:
                signal.raise_signal(kind)
            assert (calls, interrupt.requested) == (expected, False)
            calls.clear()
            signal.signal(kind, signal.SIG_IGN)
        assert signal.getsignal(kind) is signal.SIG_IGN
    finally:
        signal.signal(kind, before)


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


def test_an_order_ends_a_program_that_is_in_c() -> None:
    def ended(number: signal.Signals, times: int, *arguments: str) -> None:
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

    with ThreadPoolExecutor(3) as pool:  # each waits for seconds
        cases = [(signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGTERM, 1, "nothing to save")]
        for case in [pool.submit(ended, *each) for each in cases]:  # type: ignore[arg-type]
            case.result()


class Ends(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGUSR1)


def test_a_program_that_is_told_to_end_saves_and_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def model(inputs: Any) -> Any:
        return keras.layers.Dense(1)(harness.MultiHotDense(4, num_tokens=50)(inputs))

    sets, folder = random_sets(np.random.default_rng(), rows=200), tmp_path / "run"
    trainer = harness.Trainer(model, batch_size=50, implementation="gather")
    how: Any = {"callbacks": [Ends()], "run_dir": folder, "tensorboard": "off"}
    with pytest.raises(SystemExit) as ended:
        trainer.fit(sets, epochs=10**6, **how)
    assert ended.value.code == 143
    step, out = summary(folder)["steps"], capsys.readouterr().out
    assert step == trainer.step
    assert step in (12, 16)  # the epoch's end, or the dispatch after
    assert f"interrupted after step {step} of 4,000,000" in out
    assert "note: SIGUSR1: the training stops, the state is saved; --resume goes on" in out
    assert (folder / "checkpoints" / f"ckpt-{step}.npz").exists()
