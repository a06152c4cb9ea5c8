"""Faults in a process's own calls: the library of injector.cc, built and armed.

A process that was started with the library in LD_PRELOAD calls `arm`. From then on every call that
changes a file below one folder is counted and logged, and at one of them the process has a fault.
"""

import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

_SOURCE = Path(__file__).with_name("injector.cc")
_IS_LOADED = "FAULTS_INJECTOR"

Action = Literal["count", "kill", "tear", "fail", "full"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault at the call number `at`, where the first call has the number 1."""

    action: Action
    """`count` is no fault; `kill` kills the process before the call, and `tear` after half of a
    write; `fail` lets the call fail with EIO; `full` writes a half, and from then on every call
    that takes room on the disk fails with ENOSPC."""
    at: int = 0

    @property
    def kills(self) -> bool:
        """Whether the fault kills the process, instead of letting a call fail."""
        return self.action in ("kill", "tear")


class Call(NamedTuple):
    """A call that changes a file."""

    name: str  # `write`, `fwrite`, `rename`, ...; `create` opens a file that need not exist
    path: str  # The file's path relative to the folder; the new path for a rename

    def __str__(self) -> str:
        return f"{self.name} {self.path}"


def build(folder: Path) -> Path:
    """Compiles the library into `folder`; returns its path."""
    path = folder / "injector.so"
    # A fortified `write` would be a function with another name.
    flags = ("-O1", "-std=c++17", "-Wall", "-Wextra", "-fPIC", "-shared", "-U_FORTIFY_SOURCE")
    command = ["g++", *flags, str(_SOURCE), "-ldl", "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return path


def loading(library: Path) -> dict[str, str]:
    """Returns the environment for a process that is to have faults."""
    return {"LD_PRELOAD": str(library), _IS_LOADED: "1"}


def is_loaded() -> bool:
    """Whether this process can have faults."""
    return _IS_LOADED in os.environ


def arm(folder: Path, log: Path, fault: Fault) -> None:
    """Counts from now on the calls of this process that change files below an existing folder, with
    a line for each in a log outside of it, until the process has the fault."""
    number = errno.ENOSPC if fault.action == "full" else errno.EIO
    ctypes.CDLL(None).faults_arm(
        os.fsencode(folder),
        os.fsencode(log),
        ctypes.c_char_p(fault.action.encode()),
        ctypes.c_long(fault.at),
        ctypes.c_int(number),
    )


def calls(log: Path) -> list[Call]:
    """Returns the calls that `arm` has logged, in order."""
    return [Call(*line.split(" ", 2)[1:]) for line in log.read_text().splitlines()]


def faults_of(made: Sequence[Call]) -> Iterator[tuple[Fault, Call]]:
    """Yields every fault that a process which makes these calls can have, in order."""
    for at, call in enumerate(made, start=1):
        yield Fault(action="kill", at=at), call
        if call.name.endswith("write"):
            yield Fault(action="tear", at=at), call
        yield Fault(action="fail", at=at), call
        if call.name not in ("unlink", "rmdir", "truncate"):
            yield Fault(action="full", at=at), call
