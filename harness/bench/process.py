"""The parent's side of a measured process.

The protocol is JSON, one message a line. The parent sends the settings to train with, then a
request for each turn. The process answers `ready` once it has compiled, then for each turn its
windows and `turn`; or `input error` or `out of memory`, after which it ends. It may run another
version of this code (`harness bench --against`): the settings are therefore bare names without
groups, those at their default left out, and PROTOCOL_VERSION grows with every change that an older
process would misunderstand.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import harness
from harness.bench.results import Windows
from harness.errors import InputError
from harness.files import json_text

PROTOCOL_VERSION = 1
OWN_CODE = Path(harness.__file__).parents[1]
"""The folder that holds the packages of this program."""
_MODULE = "harness.cli.measured"
_NO_MEMORY = ("cannot allocate memory", "bad_alloc", "out of memory", "resource_exhausted")
"""What C++ libraries write before they end a process that has run out of memory."""


class ProcessEndedError(Exception):
    """A measured process ended before it was told to; the message says why."""

    def __init__(self, status: Literal["out of memory", "failed"], why: str) -> None:
        super().__init__(why)
        self.status: Literal["out of memory", "failed"] = status


def require_measurable(code: Path) -> None:
    """Checks that the folder `code` holds a version of this program that can be measured.

    Raises:
        InputError: when it does not.
    """
    if not code.joinpath(*_MODULE.split(".")).with_suffix(".py").is_file():
        raise InputError(
            f"{code} has no {_MODULE}: it is not a version of this project, or one older than "
            "`harness bench`; name another"
        )


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The result of one request to train."""

    windows: Windows
    compile_seconds: float
    """Since the process started."""
    peak_rss_bytes: int
    peak_device_bytes: int | None


class MeasuredProcess:
    """A process that trains in turns. A context manager that kills it at the end."""

    def __init__(self, settings: Mapping[str, Any], *, code: Path = OWN_CODE) -> None:
        """Starts it; `wait_until_ready` waits for it.

        Args:
            settings: of `TrainConfig`, by their bare names.
            code: the root folder of the version that it runs.

        Raises:
            InputError: `code` is not a version that can be measured.
        """
        require_measurable(code)
        self._started = time.perf_counter()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        # In a session of its own, so that Ctrl-C reaches only the parent, which decides what ends.
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=code,
            env=os.environ | {"PYTHONPATH": str(code)},
            start_new_session=True,
        )
        self._code = code
        self._ready: dict[str, Any] | None = None
        self._write({"protocol": PROTOCOL_VERSION, "settings": settings})

    def wait_until_ready(self) -> dict[str, Any]:
        """Waits until it has compiled.

        Returns:
            Its `ready` message, with `start_seconds`, the time from its start until the message.

        Raises:
            InputError: the settings do not fit the data or the devices.
            ProcessEndedError: it ended.
        """
        if self._ready is None:
            self._ready = self._read()
            self._ready["start_seconds"] = time.perf_counter() - self._started
            assert Path(self._ready["code"]) == self._code.resolve(), self._ready
        return self._ready

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def turn(self, *, seconds: float | None = None, steps: int | None = None) -> Turn:
        """Lets it train for a time or a number of steps, and waits for the end.

        Args:
            seconds, steps: one of them. It trains whole dispatches, and at least one.

        Raises:
            InputError: the settings do not fit the data or the devices.
            ProcessEndedError: it ended.
        """
        self.wait_until_ready()
        self._write({"seconds": seconds, "steps": steps})
        windows: list[dict[str, Any]] = []
        while (message := self._read()).pop("kind") == "window":
            windows.append(message)
        columns = {name: tuple(window[name] for window in windows) for name in windows[0]}
        return Turn(windows=Windows(**columns), **message)

    def stop(self) -> None:
        """Halts all its threads, so that it prepares nothing while another has its turn."""
        os.kill(self.pid, signal.SIGSTOP)
        # Waits until the signal has arrived; if the process has ended, leaves that to `_why_ended`.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        """Resumes it after `stop`."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> "MeasuredProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # a request that it never read
                stream.close()

    def _write(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: `_read` raises the reason
            self._process.stdin.write(f"{json_text(message)}\n")
            self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
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
