"""What a benchmark measures, and how: a cell by one process, or by two that take turns.

Each is a process of `harness.cli.measured`. The protocol is JSON, one message a line. The parent
sends the settings to train with, then a request for each turn. The process answers `ready` once it
has compiled, then for each turn its windows and `turn`, and `limits` where it is asked for what
bounds a step; or `input error` or `out of memory`, after which it ends. It may run another version
of this code (`harness bench --against`): the settings are therefore bare names without groups,
those at their default left out, and PROTOCOL_VERSION grows with every change that an older process
would misunderstand.
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
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
from harness.run.records import Stretch
from harness.run.stretches import joined, stretches_of
from harness.run.telemetry import nvml
from harness.tools.bench.results import AXES, LIMITS, RESULTS_FORMAT, SKIPPED, Cell, Row

PROTOCOL_VERSION, OWN_MODEL_PROTOCOL = 1, 2  # versions that know no model of one's own refuse 2
MODULE = "harness.cli.measured"
_TURN_SECONDS = 0.05  # so short, in whole dispatches, that the machine's pace hardly changes
_MIN_TURNS = 12
Window = Mapping[str, Any]  # `seconds`, `num_steps`, `examples`, `data_wait_seconds`


@dataclass(frozen=True, kw_only=True)
class Side:
    name: Literal["A", "B"] = "B"
    settings: Mapping[str, Any] = field(default_factory=dict)  # of `TrainConfig`, by name
    revision: str | None = None  # the git revision of `code`, if one was named
    own_model: str | None = None  # `module:function`, in place of the default network
    code: Path = OWN_CODE


class ProcessEndedError(Exception):
    """A process ended before it was told to; the message says why."""


class MeasuredProcess(contextlib.AbstractContextManager["MeasuredProcess"]):
    """A process that trains in turns, and ends with its context or by ProcessEndedError."""

    def __init__(self, side: Side) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        # A model of one's own lies where the command was called; nothing else there is imported.
        paths = [str(side.code), *([os.getcwd()] if side.own_model is not None else [])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=side.code,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C reaches only the parent, which decides what ends
        )
        self.pid = self._process.pid
        self._resolved: dict[str, Any] | None = None
        job: dict[str, Any] = {"protocol": PROTOCOL_VERSION, "settings": side.settings}
        if side.own_model is not None:
            job |= {"protocol": OWN_MODEL_PROTOCOL, "own_model": side.own_model}
        self._send(job)

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

    def limits(self) -> Mapping[str, float]:
        """Lets it measure what bounds a step; see `harness.tools.bench.limits`. Without figures if
        the device has no memory left for it. Older versions cannot."""
        self._send({"limits": True})
        return self._receive()

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
            raise InputError(f"out of memory: {message['message']}")
        if message["kind"] == "input error":
            raise InputError(message["message"])
        return message


def measure(
    cell: Cell, sides: Sequence[Side], *, repeat: int, seconds: float, before: Sequence[Row] = ()
) -> list[Row]:
    """Measures a cell once: on one side, or on two that take turns. Returns a row with a note where
    that cannot be done, or where one of the rows `before` has measured the same program."""
    try:
        if len(sides) == 2:
            return _in_turns(cell, sides, repeat, seconds)
        with MeasuredProcess(sides[0]) as process:
            resolved = process.wait_until_ready()
            if (twin := _same_program(cell, resolved, before)) is not None:
                return [Row(cell=cell, repeat=repeat, resolved=resolved, same_as=twin)]
            began = time.perf_counter()
            windows, totals = process.turn(seconds)
            clock_seconds = time.perf_counter() - began
            # Of one process for each cell: the others get the same answer.
            bounds = process.limits() if repeat == 0 else {}
        warnings = [*resolved.get("warnings", ()), *totals["warnings"]]
        if repeat == 0 and "copy_seconds" not in bounds:
            warnings.append("no memory was left to measure the machine's limits")
        stretches = stretches_of(windows, batch_size=cell.batch_size)
        row = Row(
            cell=cell,
            repeat=repeat,
            resolved={**resolved, "warnings": warnings} if warnings else resolved,
            figures=figures(without_warm_up(stretches), totals, bounds),
            stretches=tuple((s.examples, s.seconds, s.data_wait_seconds) for s in stretches),
            clock_seconds=clock_seconds,
        )
        return [row]
    except InputError as error:
        return [Row(cell=cell, repeat=repeat, note=f"{SKIPPED}{error.args[0]}")]
    except ProcessEndedError as error:
        return [Row(cell=cell, repeat=repeat, note=str(error))]


def _same_program(cell: Cell, resolved: Mapping[str, Any], before: Sequence[Row]) -> Cell | None:
    """Returns the other cell of which a process has compiled the same program."""

    def program(of: Mapping[str, Any]) -> dict[str, str]:
        on_cpu = all("CPU" in str(device) for device in of["devices"])
        left_out = {"code", "warnings", *(["replicas"] if on_cpu else [])}
        return {name: str(value) for name, value in of.items() if name not in left_out}

    mine = program(resolved)
    measured = (row for row in before if row.figures and row.cell != cell)
    return next((row.cell for row in measured if program(row.resolved) == mine), None)


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
        for side in sides:  # the folder of a revision's code is gone after the comparison
            if side.revision is not None:
                resolved[side.name] |= {"code": side.revision}
    kept = {name: without_warm_up(of_side) for name, of_side in turns.items()}
    # The n-th turns of A and B are neighbours.
    ratios = [_rate(b) / _rate(a) for a, b in zip(kept["A"], kept["B"], strict=True)]
    return [
        Row(
            cell=cell,
            repeat=repeat,
            side=side.name,
            resolved=resolved[side.name],
            figures=figures(
                stretches_of(itertools.chain(*kept[side.name]), batch_size=cell.batch_size),
                totals[side.name],
                {},
            ),
            ratio=statistics.median(ratios) if side.name == "B" else None,
        )
        for side in sides
    ]


def _rate(windows: Sequence[Window]) -> float:
    examples = sum(window["examples"] for window in windows)
    return float(examples / sum(window["seconds"] for window in windows))


def without_warm_up(taken: list[Any]) -> list[Any]:
    """Returns stretches or turns without the first fifth, which counts as warm-up."""
    return taken[len(taken) // 5 :]


def figures(
    stretches: Sequence[Stretch], totals: Window, bounds: Mapping[str, float]
) -> dict[str, float]:
    """Returns the figures of a process from its stretches after the warm-up, its totals and what
    bounds a step (`limits`), if that is known. Figures that a device does not have are left out."""
    total = stretches[0]
    for stretch in stretches[1:]:
        total = joined(total, stretch)
    examples_per_second, ms = (
        [getattr(one, name) for one in stretches]
        for name in ("examples_per_second", "step_time_ms")
    )
    p20, p50, p80 = np.percentile(examples_per_second, [20, 50, 80]).tolist()
    found = {
        "examples_per_second": p50,
        "examples_per_second_p20": p20,
        "examples_per_second_p80": p80,
        "mean_examples_per_second": total.examples_per_second,
        "steps_per_second": p50 / total.batch_size,
        **{f"step_time_ms_p{p}": float(np.percentile(ms, p)) for p in (50, 95, 99)},
        "data_wait_fraction": total.data_wait_fraction,
        "compile_seconds": totals["compile_seconds"],
        "peak_rss_bytes": totals["peak_rss_bytes"],
        "peak_device_bytes": totals["peak_device_bytes"] or 0,
    }
    if gpus := totals.get("gpus"):
        found["examples_per_second_per_gpu"] = p50 / len(gpus)
        over: dict[str, Callable[[list[float]], float]] = {
            "utilization_percent": statistics.fmean,
            "memory_peak_bytes": max,
            "power_watts": sum,
        }
        for name, joint in over.items():
            if values := [gpu[name] for gpu in gpus if name in gpu]:
                found[f"gpu_{name}"] = joint(values)
    if totals.get("joules_per_1000_examples") is not None:
        found["joules_per_1000_examples"] = totals["joules_per_1000_examples"]
    if "copy_seconds" in bounds:
        found |= {f"{name}_limit_ms": 1e3 * bounds[f"{name}_seconds"] for name in LIMITS}
    return found


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
    return Side(name="A", code=code, revision=None if path.is_dir() else against)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(OWN_CODE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cells(grid: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Returns every combination of the values on the axes, the last axis changing fastest. With
    `weak`, the batch size is that of one replica, and that of a cell is for all of its replicas."""
    for axis in AXES:
        require(len(grid[axis]) > 0, f"{flag_of(axis)} is empty; name at least one value")
    points = itertools.product(*(grid[axis] for axis in AXES))
    found = (Cell(**dict(zip(AXES, point, strict=True))) for point in points)
    if grid.get("weak"):
        found = (replace(c, batch_size=c.batch_size * int(c.replicas)) for c in found)
    return tuple(dict.fromkeys(found))


def provenance() -> dict[str, Any]:
    """Returns the format of the results, and where its figures come from."""
    machine = host()
    try:
        commit = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (FileNotFoundError, subprocess.CalledProcessError):
        commit = "unknown"  # an installed package has no repository
    return {
        "format": RESULTS_FORMAT,
        "machine": f"{machine['cpu']}, {machine['cores']} cores",
        "gpus": nvml.cards_and_driver(),
        "versions": versions() | {"system": machine["system"], "commit": commit},
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
