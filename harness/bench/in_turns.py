"""Many variants of one program in turn, for their step times to be of the same minutes."""

import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from harness.bench import machine
from harness.bench.process import MeasuredProcess, Turn
from harness.bench.protocol import Job

_TURN_SECONDS = 0.1
_LEAST_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Times:
    """One variant's."""

    step_ms: float
    """Median over its turns of a step's mean time."""
    steps_per_dispatch: float
    data_wait_fraction: float
    resolved: Mapping[str, Any]


def measure_in_turns(
    jobs: Mapping[str, Job], *, seconds: float
) -> tuple[dict[str, Times], tuple[str, ...]]:
    """Loads a process for each job and lets them take short turns, the others halted.

    Args:
        jobs: by name.
        seconds: for each of them.

    Returns:
        The times by name, and what happened on the machine meanwhile.

    Raises:
        InputError: when the settings do not fit the data or the devices.
        OutOfMemoryError, ProcessFailedError: a process ended.
    """
    with ExitStack() as stack:
        processes: dict[str, MeasuredProcess] = {}
        for name, job in jobs.items():
            processes[name] = stack.enter_context(MeasuredProcess(job))
            processes[name].turn(seconds=2 * _TURN_SECONDS)
            processes[name].stop()
        pids = tuple(process.pid for process in processes.values())
        before = machine.read(pids)
        turns: dict[str, list[Turn]] = {name: [] for name in jobs}
        rounds = 0
        while (
            rounds < _LEAST_ROUNDS or machine.read(pids).awake - before.awake < len(jobs) * seconds
        ):
            for name in jobs if rounds % 2 == 0 else reversed(list(jobs)):
                processes[name].go_on()
                turns[name].append(processes[name].turn(seconds=_TURN_SECONDS))
                processes[name].stop()
            rounds += 1
        times = {
            name: _times(turns[name], process.wait_until_ready()["resolved"])
            for name, process in processes.items()
        }
        return times, machine.marks(before, machine.read(pids))


def _times(turns: list[Turn], resolved: Mapping[str, Any]) -> Times:
    windows = [turn.windows for turn in turns]
    seconds = sum(sum(w.seconds) for w in windows)
    return Times(
        step_ms=statistics.median(1e3 * sum(w.seconds) / sum(w.num_steps) for w in windows),
        steps_per_dispatch=statistics.mean(n for w in windows for n in w.num_steps),
        data_wait_fraction=sum(sum(w.data_wait_seconds) for w in windows) / seconds,
        resolved=resolved,
    )
