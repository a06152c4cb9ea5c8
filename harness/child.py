"""Processes of this program that answer in JSON, one message a line: both sides.

Libraries print to standard output as they like, and may end the process: so a child writes its
messages to a descriptor of their own, and the parent finds out why one came to its end.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TextIO

from harness.errors import InputError
from harness.files import json_text

OWN_CODE = Path(__file__).resolve().parents[1]
"""The folder that holds the packages of this program."""
_NO_MEMORY = ("cannot allocate memory", "bad_alloc", "out of memory", "resource_exhausted")
"""What C++ libraries write before they end a process that has run out of memory."""
_PR_SET_PDEATHSIG = 1
"""prctl(2)."""
_LIBC = ctypes.CDLL(None)
"""Loaded here: between fork and exec no library may be."""


class ProcessEndedError(Exception):
    """A child ended before it was told to; the message says why."""

    def __init__(self, status: Literal["out of memory", "failed"], why: str) -> None:
        super().__init__(why)
        self.status: Literal["out of memory", "failed"] = status


class Child:
    """A process that runs a module. A context manager that kills it at the end."""

    def __init__(self, module: str, *, code: Path = OWN_CODE) -> None:
        """Starts it.

        Args:
            module: of the harness; its `main` serves until its standard input ends.
            code: the root folder of the version that it runs.
        """
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        # In a session of its own, so that Ctrl-C reaches only the parent, which decides what ends.
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=code,
            env=os.environ | {"PYTHONPATH": str(code)},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message, unless it has ended: `receive` raises the reason."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{json_text(message)}\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Waits for its next message.

        Raises:
            InputError: it says that the user's input is wrong.
            ProcessEndedError: it ended, or ran out of memory.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._why_ended()
        message: dict[str, Any] = json.loads(line)
        if message["kind"] == "input error":
            raise InputError(message["message"])
        if message["kind"] == "out of memory":
            raise ProcessEndedError("out of memory", message["message"])
        return message

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # a request that it never read
                stream.close()

    def _why_ended(self) -> ProcessEndedError:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            why = "it was killed (SIGKILL), as the system does when memory runs out"
            return ProcessEndedError("out of memory", why)
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip() or "no error output"
        for line in reversed(text.splitlines()):
            if any(words in line.lower() for words in _NO_MEMORY):
                return ProcessEndedError("out of memory", line.strip())
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        why = f"the process ended with {how}: {text.splitlines()[-1].strip()}"
        return ProcessEndedError("failed", why)


@contextlib.contextmanager
def channel_to_parent() -> Iterator[TextIO]:
    """In a child: where its messages go. It ends with its parent, also while it is stopped."""
    end_with_parent(signal.SIGKILL)
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)  # what libraries print must not garble the answers
        yield channel


def end_with_parent(number: signal.Signals) -> None:
    """On Linux, this process gets the signal when its parent ends."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def write_message(channel: TextIO, kind: str, **content: Any) -> None:
    """In a child: adds a message, which goes out when `channel` is flushed."""
    channel.write(json_text({"kind": kind, **content}) + "\n")
