"""The parent's side of a measured process."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from harness.bench import machine
from harness.bench.protocol import Job
from harness.bench.rows import Windows
from harness.errors import InputError
from harness.files import json_text

OWN_CODE = Path(harness.__file__).parents[1]
"""The folder that holds the packages of this program."""
_MODULE = "harness.bench.worker"
_NO_MEMORY = ("cannot allocate memory", "bad_alloc", "out of memory", "resource_exhausted")
"""What C++ libraries write before they end a process that asked for memory in vain."""


class OutOfMemoryError(Exception):
    """The process asked for more memory than it could have."""


class ProcessFailedError(Exception):
    """The process ended for another reason; the message has the end of its standard error."""


def check_code(code: Path) -> None:
    """Checks that `code` is the root of a checkout that can be measured.

    Raises:
        InputError: when it is none.
    """
    if not code.joinpath(*_MODULE.split(".")).with_suffix(".py").is_file():
        raise InputError(
            f"{code} has no {_MODULE}: it is no checkout of this project, or one from before "
            "`harness bench`; name another, or merge the benchmark into it first"
        )


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a process did when it was asked to train."""

    windows: Windows
    compile_seconds: float
    """Since the process started."""
    peak_rss_bytes: int
    peak_device_bytes: int | None


class MeasuredProcess:
    """A process that trains in turns. A context manager: the process is gone afterwards."""

    def __init__(self, job: Job, *, code: Path = OWN_CODE) -> None:
        """Starts it; `wait_until_ready` waits for it.

        Args:
            job: what it trains.
            code: the root of the checkout that it runs.

        Raises:
            InputError: `code` is no checkout that can be measured.
        """
        check_code(code)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        # A session of its own: Ctrl-C reaches the parent alone, which decides what ends.
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
        self._oom_kills = machine.oom_kills()
        self._ready: dict[str, Any] | None = None
        self._write(json_text(dataclasses.asdict(job)))

    def wait_until_ready(self) -> dict[str, Any]:
        """Waits until it has compiled; returns what it says of itself.

        Raises:
            InputError: the settings do not fit the data or the devices.
            OutOfMemoryError, ProcessFailedError: it ended.
        """
        if self._ready is None:
            self._ready = self._read("ready")
            code = Path(self._ready["code"])
            assert code == self._code.resolve(), (code, self._code)
        return self._ready

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def turn(
        self, *, seconds: float | None = None, steps: int | None = None, slow_down: float = 0.0
    ) -> Turn:
        """Lets it train for a time or a number of steps, and waits for the end.

        Args:
            seconds, steps: one of them; whole dispatches, and at least one, are trained.
            slow_down: it sleeps this share of each dispatch's time after it, which is how the
                instrument itself is tested.

        Raises:
            OutOfMemoryError, ProcessFailedError: it ended.
        """
        self.wait_until_ready()
        self._write(json.dumps({"seconds": seconds, "steps": steps, "slow_down": slow_down}))
        windows: list[dict[str, Any]] = []
        while (message := self._read("window", "turn"))["kind"] == "window":
            windows.append(message)
        del message["kind"]
        names = [field.name for field in dataclasses.fields(Windows)]
        columns = {name: tuple(window[name] for window in windows) for name in names}
        return Turn(windows=Windows(**columns), **message)

    def stop(self) -> None:
        """Halts all its threads, so that nothing is prepared ahead while another has its turn."""
        os.kill(self.pid, signal.SIGSTOP)
        # The signal takes its time; an end is left for `_why_ended` to find.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        """Ends `stop`."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> "MeasuredProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # a request that it did not live to read
                stream.close()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: reading says why
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def _read(self, *kinds: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._why_ended()
        message: dict[str, Any] = json.loads(line)
        if message["kind"] == "input error":
            raise InputError(message["message"])
        if message["kind"] == "out of memory":
            raise OutOfMemoryError(message["message"])
        assert message["kind"] in kinds, message
        return message

    def _why_ended(self) -> Exception:
        code = self._process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()] or ["it wrote no error"]
        if code == -signal.SIGKILL:
            if self._oom_kills is not None and self._oom_kills == machine.oom_kills():
                return ProcessFailedError(
                    "the process was killed (SIGKILL), and not for lack of memory: the system has "
                    "killed none for that since it started"
                )
            return OutOfMemoryError(
                "the system killed the process (SIGKILL), as it does when memory runs out"
            )
        short = [line for line in lines if any(w in line.lower() for w in _NO_MEMORY)]
        if short:
            return OutOfMemoryError(short[-1].strip())
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return ProcessFailedError(f"the process ended with {how}: {lines[-1].strip()}")
