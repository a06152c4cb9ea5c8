"""Starts workers on this machine, merges their output, and ends all of them if one fails."""

import contextlib
import ctypes
import fcntl
import functools
import os
import secrets
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from harness.base.child import end_with_parent
from harness.workers.membership import CHIEF, TOKEN

_GRACE_SECONDS = 15.0  # seconds from SIGTERM to SIGKILL, for a checkpoint
_POLL_SECONDS = 0.1
ENDED_AS_TOLD = (130, 143)  # exit codes after Ctrl-C and SIGTERM
_CLONE_NEWUSER, _CLONE_NEWNET = 0x1000_0000, 0x4000_0000  # of unshare(2)
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1  # of netdevice(7), to start the loopback interface


def run_job(workers: int, command: Sequence[str], *, out: TextIO, errors: TextIO) -> int:
    """Starts the workers and waits for them; once one has failed, ends the others. Their lines go
    to the streams `out` and `errors`, each after the prefix `[INDEX] `. Returns the exit code of
    the worker that failed first, or 128 + the number of the signal that ended it; else 0."""
    with socket.socket() as free:
        free.bind(("", 0))
        chief = f"localhost:{free.getsockname()[1]}"
    together = {CHIEF: chief, TOKEN: secrets.token_hex(), "TF_CONFIG": ""}
    printing, said = threading.Lock(), set[str]()

    def merge(index: int, stream: Any, target: TextIO) -> None:
        with stream:
            for line in stream:
                text = line.rstrip("\r\n")
                with printing:  # two threads for each worker write whole lines
                    if text not in said:
                        target.write(f"[{index}] {text}\n")
                        target.flush()
                    if text.startswith(("error: ", "note: ")):  # of all workers at the same time
                        said.add(text)

    processes: list[subprocess.Popen[str]] = []
    readers = []
    for index in range(workers):
        place = {"OMPI_COMM_WORLD_RANK": str(index), "OMPI_COMM_WORLD_SIZE": str(workers)}
        process = subprocess.Popen(
            command,
            env=os.environ | together | place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl-C reaches only this process, which passes it on.
            start_new_session=True,
            preexec_fn=functools.partial(end_with_parent, signal.SIGTERM),
        )
        processes.append(process)
        for stream, target in ((process.stdout, out), (process.stderr, errors)):
            reader = threading.Thread(target=merge, args=(index, stream, target), daemon=True)
            reader.start()
            readers.append(reader)
    with _passing_on(processes) as told:
        code, failed = _waited(processes)
    for reader in readers:
        reader.join(timeout=5)
    # Wrong input (2) has its own message, and who was told to stop has not failed.
    if failed is not None and not told and code not in (2, *ENDED_AS_TOLD):
        how = f"signal {code - 128}" if code > 128 else f"exit code {code}"
        errors.write(f"worker {failed} ended with {how}, and so the job\n")
        errors.flush()
    return code


def _waited(processes: Sequence[subprocess.Popen[str]]) -> tuple[int, int | None]:
    """Returns the job's exit code, and the index of the worker that failed first, or None."""
    while True:
        codes = [process.poll() for process in processes]
        failed = next((index for index, code in enumerate(codes) if code), None)
        if failed is not None or None not in codes:
            break
        time.sleep(_POLL_SECONDS)
    code = 0 if failed is None else processes[failed].returncode
    # The others notice by themselves and say so. Workers told to end save first.
    _wait(processes, _GRACE_SECONDS if code in ENDED_AS_TOLD else 1.0)
    for process in processes:
        process.terminate()
    _wait(processes, _GRACE_SECONDS)
    for process in processes:
        process.kill()
        process.wait()
    return (128 - code if code < 0 else code), failed


def _wait(processes: Sequence[subprocess.Popen[str]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, deadline - time.monotonic()))


def enter_own_network() -> None:
    """Moves this process, and all processes that it starts, to a network namespace that has only a
    loopback interface, which no other process can reach. Raises an OSError if the system does not
    allow it."""
    libc = ctypes.CDLL(None, use_errno=True)
    ids = {"uid_map": os.getuid(), "gid_map": os.getgid()}
    if libc.unshare(_CLONE_NEWNET):  # only root may; others need a namespace of users, too
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        Path("/proc/self/setgroups").write_text("deny")
        for name, own in ids.items():
            Path("/proc/self", name).write_text(f"{own} {own} 1")
    with socket.socket() as any_socket:
        interface = struct.pack("16sh22x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, interface)


@contextlib.contextmanager
def _passing_on(processes: Sequence[subprocess.Popen[str]]) -> Iterator[list[int]]:
    """Passes SIGINT, SIGTERM and SIGUSR1 on to the workers, which save and end."""
    told: list[int] = []

    def handle(number: int, _frame: Any) -> None:
        told.append(number)
        for process in processes:
            process.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
