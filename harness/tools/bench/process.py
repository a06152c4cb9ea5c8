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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from harness.base.child import OWN_CODE
from harness.base.errors import InputError
from harness.base.files import json_text
from harness.tools.bench.results import Windows

PROTOCOL_VERSION = 1
MODULE = "harness.cli.measured"
_NO_MEMORY = ("cannot allocate memory", "bad_alloc", "out of memory", "resource_exhausted")
"""What C++ libraries write before they end a process that has run out of memory."""


class ProcessEndedError(Exception):
    """A process ended before it was told to; the message says why."""

    def __init__(self, status: Literal["out of memory", "failed"], why: str) -> None:
        super().__init__(why)
        self.status: Literal["out of memory", "failed"] = status


class MeasuredProcess:
    """A process that trains in turns. A context manager that kills it at the end.

    Its methods raise InputError when the settings do not fit the data or the devices, and
    ProcessEndedError when it ended.
    """

    def __init__(self, settings: Mapping[str, Any], *, code: Path = OWN_CODE) -> None:
        """Starts the version in the folder `code`, with settings of `TrainConfig`."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        # In a session of its own, so that Ctrl-C reaches only the parent, which decides what ends.
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=code,
            env=os.environ | {"PYTHONPATH": str(code)},
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._code = code
        self._ready: dict[str, Any] | None = None
        self._send({"protocol": PROTOCOL_VERSION, "settings": settings})

    def wait_until_ready(self) -> dict[str, Any]:
        """Waits until it has compiled, and returns its `ready` message."""
        if self._ready is None:
            self._ready = self._receive()
            assert Path(self._ready["code"]) == self._code.resolve(), self._ready
        return self._ready

    def turn(
        self, *, seconds: float | None = None, steps: int | None = None
    ) -> tuple[Windows, dict[str, Any]]:
        """Lets it train for a time or a number of steps, in whole dispatches, and at least one.
        Returns the windows and, since its start, `compile_seconds`, `peak_rss_bytes` and
        `peak_device_bytes`, as a `Row` has them."""
        self.wait_until_ready()
        self._send({"seconds": seconds, "steps": steps})
        windows: list[dict[str, Any]] = []
        while (message := self._receive()).pop("kind") == "window":
            windows.append(message)
        columns = {name: tuple(window[name] for window in windows) for name in windows[0]}
        return Windows(**columns), message

    def stop(self) -> None:
        """Halts all its threads, so that it prepares nothing while another has its turn."""
        os.kill(self.pid, signal.SIGSTOP)
        # Waits until the signal has arrived; if the process has ended, leaves that to `_why_ended`.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        """Resumes it after `stop`."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # a request that it never read
                stream.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: `_receive` raises the reason
            self._process.stdin.write(f"{json_text(message)}\n")
            self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
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
        lines = self._errors.read().decode(errors="replace").split("\n")
        lines = [line.strip() for line in lines if line.strip()] or ["no error output"]
        for line in reversed(lines):
            if any(words in line.lower() for words in _NO_MEMORY):
                return ProcessEndedError("out of memory", line)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return ProcessEndedError("failed", f"the process ended with {how}: {lines[-1]}")
