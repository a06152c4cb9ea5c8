"""What a benchmark measures, and how: a cell by one process, or by two that take turns.

Each is a process of `harness.cli.measured`. The protocol is JSON, one message a line. The parent
sends the settings to train with, then a request for each turn. The process answers `ready` once it
has compiled, then for each turn its windows and `turn`; or `input error` or `out of memory`, after
which it ends. It may run another version of this code (`harness bench --against`): the settings are
therefore bare names without groups, those at their default left out, and PROTOCOL_VERSION grows
with every change that an older process would misunderstand.
"""

import contextlib
import datetime
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.base.checks import flag_of, require
from harness.base.child import OWN_CODE
from harness.base.decoding import flattened
from harness.base.errors import InputError
from harness.base.files import json_text
from harness.base.reading import read_toml
from harness.run.machine import host, versions
from harness.tools.bench.results import AXES, Cell, Row

PROTOCOL_VERSION = 1
MODULE = "harness.cli.measured"
_TURN_SECONDS = 0.05  # so short, in whole dispatches, that the machine's pace hardly changes
_MIN_TURNS = 12
Window = Mapping[str, Any]  # `seconds`, `num_steps`, `examples`, `data_wait_seconds`


@dataclass(frozen=True, kw_only=True)
class Side:
    name: Literal["A", "B"] = "B"
    settings: Mapping[str, Any] = field(default_factory=dict)  # of `TrainConfig`, by name
    code: Path = OWN_CODE


class ProcessEndedError(Exception):
    """A process ended before it was told to; the message says why."""


class MeasuredProcess(contextlib.AbstractContextManager["MeasuredProcess"]):
    """A process that trains in turns, and ends with its context or by ProcessEndedError."""

    def __init__(self, side: Side) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=side.code,
            env=os.environ | {"PYTHONPATH": str(side.code)},
            start_new_session=True,  # Ctrl-C reaches only the parent, which decides what ends
        )
        self.pid = self._process.pid
        self._resolved: dict[str, Any] | None = None
        self._send({"protocol": PROTOCOL_VERSION, "settings": side.settings})

    def wait_until_ready(self) -> dict[str, Any]:
        """Waits until it has compiled; returns its settings with every `auto` resolved."""
        if self._resolved is None:
            ready = self._receive()
            self._resolved = {**ready["resolved"], "code": ready["code"]}
        return self._resolved

    def turn(self, seconds: float) -> tuple[list[Window], Window]:
        """Lets it train for a time, in whole dispatches. Returns the windows, and the totals since
        its start: `compile_seconds`, `peak_rss_bytes`, `peak_device_bytes` (None on a CPU)."""
        self.wait_until_ready()
        self._send({"seconds": seconds, "steps": None})  # older versions could count steps instead
        windows: list[Window] = []
        while (message := self._receive())["kind"] == "window":
            windows.append(message)
        return windows, message

    def stop(self) -> None:
        # All its threads: it neither takes a core nor prepares batches.
        os.kill(self.pid, signal.SIGSTOP)
        # Waits until the signal has arrived. If the process has ended, the next message says so.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()  # closes the pipes, too
        self._errors.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: `_receive` raises the reason
            self._process.stdin.write(f"{json_text(message)}\n")
            self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            code = self._process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").splitlines()
            # The kernel's out-of-memory killer leaves no last words.
            if code == -signal.SIGKILL or not lines:
                lines = ["perhaps because memory ran out"]
            raise ProcessEndedError(f"the process ended with {how}: {lines[-1]}")
        message: dict[str, Any] = json.loads(line)
        if message["kind"] == "out of memory":
            raise ProcessEndedError(f"out of memory: {message['message']}")
        if message["kind"] == "input error":
            raise InputError(message["message"])
        return message


def measure(cell: Cell, sides: Sequence[Side], *, repeat: int, seconds: float) -> list[Row]:
    try:
        if len(sides) == 2:
            return _in_turns(cell, sides, repeat, seconds)
        with MeasuredProcess(sides[0]) as process:
            resolved = process.wait_until_ready()
            windows, totals = process.turn(seconds)
        found = figures(without_warm_up(windows), totals)
        return [Row(cell=cell, repeat=repeat, resolved=resolved, figures=found)]
    except ProcessEndedError as error:
        return [Row(cell=cell, repeat=repeat, note=str(error))]


def _in_turns(cell: Cell, sides: Sequence[Side], repeat: int, seconds: float) -> list[Row]:
    # A B B A over and over: a drift of the machine favours neither side, and each follows itself as
    # often as the other.
    with ExitStack() as stack:
        started: dict[str, MeasuredProcess] = {}
        for side in sides if repeat % 2 == 0 else sides[::-1]:
            process = started[side.name] = stack.enter_context(MeasuredProcess(side))
            if repeat == 0:  # `auto` may measure implementations: not on both sides at once
                process.wait_until_ready()
        for process in started.values():
            process.turn(_TURN_SECONDS)
            process.stop()
        turns: dict[str, list[list[Window]]] = {"A": [], "B": []}
        totals = {}
        end = time.monotonic() + seconds
        while len(turns["A"]) < _MIN_TURNS or time.monotonic() < end:
            for name in "ABBA":
                started[name].go_on()
                windows, totals[name] = started[name].turn(_TURN_SECONDS)
                started[name].stop()
                # The first dispatch finds the caches full of the other side's data.
                turns[name].append(windows[1:] or windows)
        resolved = {name: process.wait_until_ready() for name, process in started.items()}
    kept = {name: without_warm_up(of_side) for name, of_side in turns.items()}
    # The n-th turns of A and B are neighbours.
    ratios = [_rate(b) / _rate(a) for a, b in zip(kept["A"], kept["B"], strict=True)]
    return [
        Row(
            cell=cell,
            repeat=repeat,
            side=side.name,
            resolved=resolved[side.name],
            figures=figures([*itertools.chain(*kept[side.name])], totals[side.name]),
            ratio=statistics.median(ratios) if side.name == "B" else None,
        )
        for side in sides
    ]


def _rate(windows: Sequence[Window]) -> float:
    examples = sum(window["examples"] for window in windows)
    return float(examples / sum(window["seconds"] for window in windows))


def without_warm_up(taken: list[Any]) -> list[Any]:
    """Returns windows or turns without the first fifth, which counts as warm-up."""
    return taken[len(taken) // 5 :]


def figures(windows: Sequence[Window], totals: Window) -> dict[str, float]:
    """Returns the figures of a process from its windows after the warm-up and its totals."""
    # Windows weigh alike in the percentiles and medians, however many steps they have.
    seconds, num_steps, examples = (
        np.array([window[name] for window in windows])
        for name in ("seconds", "num_steps", "examples")
    )
    rates = np.percentile(examples / seconds, [50, 20, 80]).tolist()
    waits = sum(window["data_wait_seconds"] for window in windows)
    return {
        "examples_per_second": rates[0],
        "examples_per_second_p20": rates[1],
        "examples_per_second_p80": rates[2],
        "steps_per_second": float(np.median(num_steps / seconds)),
        "step_time_ms_p50": float(np.median(1e3 * seconds / num_steps)),
        "data_wait_fraction": float(waits / seconds.sum()),
        "compile_seconds": totals["compile_seconds"],
        "peak_rss_bytes": totals["peak_rss_bytes"],
        "peak_device_bytes": totals["peak_device_bytes"] or 0,
    }


def find_baseline(against: str, *, scratch: Path) -> Side:
    """Returns the side that `--against` names: the root folder of a checkout, a TOML file of the
    settings that override the flags, or a git revision, whose code is unpacked into `scratch`."""
    path = Path(against)
    if path.is_file() or path.suffix == ".toml":
        return Side(name="A", settings=flattened(read_toml(path), where=against))
    code = path.absolute()
    if not path.is_dir():
        try:
            # An exported tree: the user's own checkout stays as it is.
            name = f"{against}^{{commit}}"
            commit = _git("rev-parse", "--verify", "--end-of-options", name)
            _git("archive", "--format=zip", f"--output={scratch / 'code.zip'}", commit)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise InputError(
                f"--against is {against!r}, which is no folder, file or revision; name the root "
                "folder of a checkout, a TOML file of settings, or a git revision of this program"
            ) from error
        code = scratch / commit
        shutil.unpack_archive(scratch / "code.zip", code)
    require(
        code.joinpath(*MODULE.split(".")).with_suffix(".py").is_file(),
        f"{code} has no {MODULE}: it is not a version of this project, or one older than "
        "`harness bench`; name another",
    )
    return Side(name="A", code=code)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(OWN_CODE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cells(grid: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Returns every combination of the values on the axes, the last axis changing fastest."""
    for axis in AXES:
        require(len(grid[axis]) > 0, f"{flag_of(axis)} is empty; name at least one value")
    points = itertools.product(*(grid[axis] for axis in AXES))
    return tuple(dict.fromkeys(Cell(**dict(zip(AXES, point, strict=True))) for point in points))


def provenance() -> dict[str, Any]:
    """Returns the format of the results, and where its figures come from."""
    machine = host()
    try:
        commit = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (FileNotFoundError, subprocess.CalledProcessError):
        commit = "unknown"  # an installed package has no repository
    return {
        "format": "harness-bench-results 3",
        "machine": f"{machine['cpu']}, {machine['cores']} cores",
        "versions": versions() | {"system": machine["system"], "commit": commit},
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
