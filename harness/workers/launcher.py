"""Starts the workers of a cluster, merges what they print, and ends all when one fails."""

import contextlib
import functools
import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from harness.base.child import end_with_parent
from harness.base.errors import InputError
from harness.workers.meeting import free_ports

_GRACE_SECONDS = 15.0
"""Seconds from SIGTERM to SIGKILL, for a checkpoint."""
_POLL_SECONDS = 0.1
_REMOTE_PORT = 23456
"""First port of a host whose line names none."""
_SSH_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=20")
_CTRL_C = "\x03"
"""The character that a terminal sends for Ctrl-C."""
ENDED_AS_TOLD = (130, 143)
"""Exit codes after Ctrl-C and SIGTERM."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The machine and address of a worker."""

    host: str | None
    """Host by ssh's name; None for this machine."""
    address: str
    """Address `name:port` for the other workers."""


def local_places(workers: int) -> list[Place]:
    """Returns places for workers on this machine, on ports that are free now."""
    return [Place(host=None, address=f"localhost:{port}") for port in free_ports(workers)]


def remote_places(lines: Sequence[str], workers: int | None) -> list[Place]:
    """Returns places on hosts, one for each line `name`, `name:port` or `user@name:port`, in order.

    Args:
        lines: lines of the hosts' file; empty ones, and those that begin with `#`, are left out.
        workers: number of workers; None means one for each line.

    Raises:
        InputError: if there are too few hosts, or a line names none.
    """
    hosts = [line.strip() for line in lines]
    hosts = [line for line in hosts if line and not line.startswith("#")]
    if workers is not None and len(hosts) < workers:
        raise InputError(
            f"--workers is {workers}, but --hosts names {len(hosts)} hosts; add some, or set "
            f"--workers to {len(hosts)} or less"
        )
    places: list[Place] = []
    for line in hosts[:workers]:
        login, _, port = line.partition(":")
        name = login.rpartition("@")[2]
        if not name or name.startswith("-") or len(line.split()) != 1:
            raise InputError(f"--hosts holds the line '{line:.100}'; give name, or name:port")
        if port and not port.isdecimal():
            raise InputError(f"--hosts holds the line '{line:.100}', whose port is no number")
        on_it = sum(place.host == login for place in places)
        number = int(port) if port else _REMOTE_PORT + on_it
        places.append(Place(host=login, address=f"{name}:{number}"))
    return places


def command_at(
    place: Place, index: int, places: Sequence[Place], command: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Returns the command that starts a worker, and its additions to this process's environment.

    On another host, the command is `ssh HOST 'cd FOLDER && TF_CONFIG=... COMMAND'`, with the same
    folder and the same Python as here.
    """
    config = {
        "cluster": {"worker": [each.address for each in places]},
        "task": {"type": "worker", "index": index},
    }
    own = {"TF_CONFIG": json.dumps(config)}
    if place.host is None:
        return list(command), own
    assigned = " ".join(f"{name}={shlex.quote(value)}" for name, value in own.items())
    line = f"cd {shlex.quote(os.getcwd())} && {assigned} exec {shlex.join(command)}"
    return ["ssh", "-tt", *_SSH_OPTIONS, place.host, line], {}


class Job:
    """All workers of one start."""

    def __init__(
        self,
        places: Sequence[Place],
        command: Sequence[str],
        out: TextIO,
        errors: TextIO,
    ) -> None:
        """Starts the workers.

        Args:
            places: the workers' places, the chief's first.
            command: the command of each worker.
            out, errors: streams for the workers' lines, each behind `[INDEX] `.
        """
        self._printing = threading.Lock()
        self._said: set[str] = set()
        self._places = tuple(places)
        self._typed = False
        self._processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        for index, place in enumerate(places):
            started, own = command_at(place, index, places, command)
            process = subprocess.Popen(
                started,
                env=os.environ | own,
                stdin=subprocess.DEVNULL if place.host is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                # Ctrl-C reaches only this process, which passes it on.
                start_new_session=True,
                preexec_fn=functools.partial(end_with_parent, signal.SIGTERM),
            )
            self._processes.append(process)
            for stream, target in ((process.stdout, out), (process.stderr, errors)):
                assert stream is not None
                reader = threading.Thread(
                    target=self._merge, args=(index, stream, target), daemon=True
                )
                reader.start()
                self._readers.append(reader)

    def pass_on(self, number: int) -> None:
        """Sends a signal to all workers.

        ssh passes on no signals, only typed characters. On another host, every signal arrives as
        Ctrl-C, except SIGKILL, which only ends ssh.
        """
        for place, process in zip(self._places, self._processes, strict=True):
            if process.poll() is not None:
                continue
            with contextlib.suppress(ProcessLookupError, BrokenPipeError):
                if place.host is None or number == signal.SIGKILL:
                    process.send_signal(number)
                    continue
                if number == signal.SIGUSR1 and self._typed:
                    continue  # a second one changes nothing, but a second Ctrl-C would
                assert process.stdin is not None
                process.stdin.write(_CTRL_C)
                process.stdin.flush()
        self._typed = True

    def wait(self) -> tuple[int, int | None]:
        """Waits until all workers have ended; once one has failed, ends the others.

        Returns:
            The exit code of the job, 0 if all workers had 0; and which worker failed first.
        """
        failed: int | None = None
        deadline = None
        while any(process.poll() is None for process in self._processes):
            codes = [process.poll() for process in self._processes]
            if failed is None:
                failed = next((i for i, code in enumerate(codes) if code), None)
                if failed is not None:
                    # The others notice by themselves and say so. Workers told to end save first.
                    told = codes[failed] in ENDED_AS_TOLD
                    deadline = time.monotonic() + (_GRACE_SECONDS if told else 1.0)
            if deadline is not None and time.monotonic() > deadline:
                self._end()
                break
            time.sleep(_POLL_SECONDS)
        codes = [process.wait() for process in self._processes]
        for process in self._processes:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
        for reader in self._readers:
            reader.join(timeout=5)
        if failed is None:
            failed = next((i for i, code in enumerate(codes) if code), None)
        if failed is None:
            return 0, None
        code = codes[failed]
        assert code is not None
        return (128 - code if code < 0 else code), failed

    def _end(self) -> None:
        self.pass_on(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
        self.pass_on(signal.SIGKILL)

    def _merge(self, index: int, stream: TextIO, target: TextIO) -> None:
        with stream:
            for line in stream:
                self._print(f"[{index}]", line.rstrip("\r\n"), target)

    def _print(self, prefix: str, line: str, target: TextIO) -> None:
        with self._printing:
            # All workers find the same error at the same time.
            if line.startswith("error: ") and line in self._said:
                return
            if line.startswith("error: "):
                self._said.add(line)
            target.write(f"{prefix} {line}\n")
            target.flush()


def run_job(
    places: Callable[[], Sequence[Place]],
    command: Callable[[int], Sequence[str]],
    *,
    restarts: int,
    out: TextIO,
    errors: TextIO,
) -> int:
    """Starts the workers, and again after a failure.

    Args:
        places: returns the workers' places; called before each start.
        command: returns the workers' command, from the number of earlier starts.
        restarts: how often to start again, except after a wrong input (exit code 2) or a request to
            stop.
        out, errors: as in `Job`.

    Returns:
        The exit code.
    """
    for start in range(restarts + 1):
        job = Job(places(), command(start), out, errors)
        with _passing_on(job) as told:
            code, failed = job.wait()
        if code == 0 or code == 2 or code in ENDED_AS_TOLD or told or failed is None:
            return code
        how = f"signal {code - 128}" if code > 128 else f"exit code {code}"
        left = restarts - start
        again = f"; starting again ({left} of {restarts} left)" if left else ""
        errors.write(f"worker {failed} ended with {how}, and so the job{again}\n")
        errors.flush()
    return code


@contextlib.contextmanager
def _passing_on(job: Job) -> Iterator[list[int]]:
    """Passes signals that end a program on to the workers, which save and end."""
    told: list[int] = []

    def handle(number: int, _frame: Any) -> None:
        told.append(number)
        job.pass_on(number)

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def reachable(places: Sequence[Place]) -> list[Place]:
    """Returns the places whose hosts accept a login."""

    def answers(place: Place) -> bool:
        if place.host is None:
            return True
        test = ["ssh", *_SSH_OPTIONS, place.host, "true"]
        done = subprocess.run(test, stdin=subprocess.DEVNULL, capture_output=True)
        return done.returncode == 0

    return [place for place in places if answers(place)]
