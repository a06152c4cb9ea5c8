"""Ctrl-C: a wish at first, an order the second time."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from harness.commands.interrupt import Interrupt
from tests.harness.commands.runs import REPOSITORY, SMALL, command_line, environment


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


def in_pipe(reader: int) -> int:
    """Bytes that nobody has read."""
    return int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_the_second_ends_a_run_whose_output_nobody_reads(tmp_path: Path) -> None:
    """Nor does it wait for the thread that writes to the pipe in vain."""
    flags = ("--epochs", "100000", "--compilation-cache", "off", "--run-dir", tmp_path)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, resource.getpagesize())
    with subprocess.Popen(
        command_line("train", *SMALL, *flags),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=environment(),
    ) as process:
        os.close(writer)
        while in_pipe(reader) < resource.getpagesize() - 300:  # there is room for some lines more
            time.sleep(0.1)
            assert process.poll() is None, "it ended before"
        time.sleep(3)  # and now there is none
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None, "it ends what was begun"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == "interrupted\n"
    os.close(reader)
