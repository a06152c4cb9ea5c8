"""The parent's side of a measured process.

The protocol is JSON, one message a line. The parent sends the settings to train with, then a
request for each turn. The process answers `ready` once it has compiled, then for each turn its
windows and `turn`; or `input error` or `out of memory`, after which it ends. It may run another
version of this code (`harness bench --against`): the settings are therefore bare names without
groups, those at their default left out, and PROTOCOL_VERSION grows with every change that an older
process would misunderstand.
"""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench.results import Windows
from harness.child import OWN_CODE, Child
from harness.errors import InputError

PROTOCOL_VERSION = 1
_MODULE = "harness.cli.measured"


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


class MeasuredProcess(Child):
    """A process that trains in turns."""

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
        super().__init__(_MODULE, code=code)
        self._code = code
        self._ready: dict[str, Any] | None = None
        self.send({"protocol": PROTOCOL_VERSION, "settings": settings})

    def wait_until_ready(self) -> dict[str, Any]:
        """Waits until it has compiled.

        Returns:
            Its `ready` message, with `start_seconds`, the time from its start until the message.

        Raises:
            InputError: the settings do not fit the data or the devices.
            ProcessEndedError: it ended.
        """
        if self._ready is None:
            self._ready = self.receive()
            self._ready["start_seconds"] = time.perf_counter() - self._started
            assert Path(self._ready["code"]) == self._code.resolve(), self._ready
        return self._ready

    def turn(self, *, seconds: float | None = None, steps: int | None = None) -> Turn:
        """Lets it train for a time or a number of steps, and waits for the end.

        Args:
            seconds, steps: one of them. It trains whole dispatches, and at least one.

        Raises:
            InputError: the settings do not fit the data or the devices.
            ProcessEndedError: it ended.
        """
        self.wait_until_ready()
        self.send({"seconds": seconds, "steps": steps})
        windows: list[dict[str, Any]] = []
        while (message := self.receive()).pop("kind") == "window":
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
