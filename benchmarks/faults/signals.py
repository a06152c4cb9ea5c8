"""Sends signals during oneDNN's matrix products, whose stack pointer is in the heap for a while.

    .venv/bin/python -m benchmarks.faults.signals            # 4 minutes
    .venv/bin/python -m benchmarks.faults.signals --bare     # without a signal stack

Without a signal stack, the products crash within seconds, and three of five trainings within 30 s.

There are two parts, each in a separate process. TensorFlow alone multiplies matrices in an XLA loop
under 1,000 alarms a second. `harness train` gets 50 signals a second, which its process only
counts, and is stopped by SIGTERM at the end.

The exit code is 1 if a process crashed, or the training ended in another way than by its stop.
"""

import argparse
import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path

from benchmarks.faults import checks, trial

_FORK = multiprocessing.get_context("fork")
_ALARMS_EVERY_SECONDS = 0.001
_SIGNALS_A_SECOND = 50
_ROWS, _UNITS, _PRODUCTS = 500, 50, 500
"""The sizes of a hidden layer's weight gradient, [rows, units]^T x [rows, units], and the number of
products in a call."""
_MODEL = ("--hidden-units", *["50"] * 8, "--dropout", "0", "--synthetic-tokens", "500")
"""The flags of a training with so many such products that about one signal in 300 meets one."""
_HANGS_AFTER_SECONDS = 300
_TERMINATED = 143


def multiply(folder: Path, seconds: float, bare: bool) -> None:
    """Multiplies matrices in XLA's loop, in a separate process, under alarms that are only
    counted."""
    import tensorflow as tf

    from harness.program.devices import start_threads

    if not bare:
        start_threads("/CPU:0")

    @tf.function(jit_compile=True)
    def products(rows: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
        def step(count: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            product = tf.matmul(rows, gradients, transpose_a=True)
            return count + 1, rows + 1e-9 * product[0]  # otherwise XLA would multiply only once

        return tf.while_loop(lambda count, _: count < _PRODUCTS, step, (0, rows))[1]

    rows, gradients = tf.random.normal([2, _ROWS, _UNITS])
    products(rows, gradients)
    _count(signal.SIGALRM, folder)
    signal.setitimer(signal.ITIMER_REAL, _ALARMS_EVERY_SECONDS, _ALARMS_EVERY_SECONDS)
    end = time.monotonic() + seconds
    source, held = random.Random(0), [bytearray()] * 50
    while time.monotonic() < end:
        products(rows, gradients)
        # Each call finds another heap: the memory below the buffer is what a signal overwrites.
        held[source.randrange(len(held))] = bytearray(source.randrange(200_000))
    signal.setitimer(signal.ITIMER_REAL, 0)


def train(folder: Path, bare: bool) -> None:
    """Runs `harness train` without end, in a separate process, where SIGUSR2 is only counted."""
    from harness.cli.main import main

    if bare:
        # Unlike Python's handlers, a handler set by libc's signal() does not use a signal stack.
        libc = ctypes.CDLL(None)
        libc.signal(signal.SIGUSR2, libc.getpid)
    else:
        _count(signal.SIGUSR2, folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    os.dup2(os.open(folder / "err", os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    run = ("--run-dir", str(folder / "run"), "--epochs", "1000000", "--validation-split", "0.1")
    os._exit(main(["train", "--data", "synthetic", "--implementation", "native", *_MODEL, *run]))


def _count(kind: signal.Signals, folder: Path) -> None:
    # Python's own handler in C writes a byte for each signal that it handles.
    file = os.open(folder / "handled", os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK)
    signal.set_wakeup_fd(file)
    signal.signal(kind, lambda *_: None)


@contextlib.contextmanager
def process_of(target: Callable[..., None], *arguments: object) -> Iterator[ForkProcess]:
    """Starts a process that does not outlive the context."""
    process = _FORK.Process(target=target, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def wait_for_training(process: ForkProcess, folder: Path) -> None:
    """Returns after the first dispatch.

    Raises:
        HangError: when there is no dispatch.
    """
    end = time.monotonic() + _HANGS_AFTER_SECONDS
    while not (folder / "run" / "metrics.jsonl").exists():
        if time.monotonic() > end or not process.is_alive():
            raise trial.HangError(f"nothing was trained: {(folder / 'err').read_text()}")
        time.sleep(0.01)


def ending(process: ForkProcess) -> int:
    """Waits for a process; returns its exit code, which after a crash is the signal's negative
    number.

    Raises:
        HangError: when the process does not end.
    """
    process.join(_HANGS_AFTER_SECONDS)
    if process.exitcode is None:
        raise trial.HangError(f"no end within {_HANGS_AFTER_SECONDS} s")
    return process.exitcode


def under_alarms(seconds: float, *, bare: bool) -> bool:
    """Multiplies; returns whether all went well."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        with process_of(multiply, Path(place), seconds, bare) as process:
            code = ending(process)
        handled = Path(place, "handled").stat().st_size
    took = time.monotonic() - start
    print(f"products: exit code {code}, {handled:,} alarms, {took:.0f} s", flush=True)
    return code == 0


def under_signals(signals: int, source: random.Random, *, bare: bool) -> bool:
    """Trains until so many signals were handled, and stops it; returns whether all went well."""
    sent = handled = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with process_of(train, folder, bare) as process:
            wait_for_training(process, folder)
            assert process.pid is not None
            start = time.monotonic()
            while process.is_alive() and handled < signals:
                os.kill(process.pid, signal.SIGUSR2)
                sent += 1
                # This is the average rate: regular signals could miss the products of every step.
                due = start + (sent + source.random()) / _SIGNALS_A_SECOND
                time.sleep(max(0.0, due - time.monotonic()))
                handled = sent if bare else (folder / "handled").stat().st_size
            took = time.monotonic() - start
            if process.is_alive():
                process.terminate()
            code = ending(process)
            found = [] if code == _TERMINATED else [f"exit code {code}, not {_TERMINATED}"]
            found += filter(None, [(folder / "err").read_text()])
            found += checks.half_written(folder / "run")
    text = f"training: {sent:,} signals in {took:.0f} s" + (
        "" if bare else f", {handled:,} handled"
    )
    print(text, *found, sep="; ", flush=True)
    return not found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="of products under alarms")
    parser.add_argument("--signals", type=int, default=10_000, help="that a training handles")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--bare", action="store_true", help="without a signal stack")
    arguments = parser.parse_args()
    assert not faulthandler.is_enabled(), "it sets a signal stack itself"
    trial.ready(__spec__.name, sys.argv[1:])
    source, ok = random.Random(arguments.seed), True
    if arguments.seconds:
        ok &= under_alarms(arguments.seconds, bare=arguments.bare)
    if arguments.signals:
        ok &= under_signals(arguments.signals, source, bare=arguments.bare)
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
