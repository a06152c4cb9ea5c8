"""A process of its own becomes a row; two processes that take turns become a pair."""

import contextlib
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import psutil

from harness.tools.bench.against import Side
from harness.tools.bench.effects import is_steady, num_warm_up
from harness.tools.bench.process import MeasuredProcess, ProcessEndedError
from harness.tools.bench.results import Cell, Figures, Pair, Quantiles, Row, Windows

_TURN_SECONDS = 0.05
"""Short, so that the machine is about the same in the turns of a round. A turn is at least one
dispatch, so it may last longer."""
_LEAST_TURNS = 12
"""The fewest turns of each side."""
_SLEPT_SECONDS = 0.05
_BUSY_SHARE = 0.05
"""Share of all cores' time that others used; more is marked."""


def measure(
    cell: Cell,
    settings: Mapping[str, Any],
    *,
    repeat: int,
    seconds: float | None,
    steps: int | None,
) -> Row:
    """Trains with `settings` in a process of its own, for a time or a number of steps. If it ended
    or ran out of memory, the row says so; if the settings do not fit, this raises InputError."""
    try:
        with MeasuredProcess(settings) as process:
            resolved = process.wait_until_ready()["resolved"]
            before = read_clocks((process.pid,))
            windows, rest = process.turn(seconds=seconds, steps=steps)
            marks = marks_between(before, read_clocks((process.pid,)))
    except ProcessEndedError as error:
        return Row(cell=cell, repeat=repeat, status=error.status, note=str(error))
    if not is_steady(np.array(windows.seconds) / np.array(windows.num_steps)):
        marks += ("not steady: the step time still changes; set a longer --seconds",)
    return Row(
        cell=cell,
        repeat=repeat,
        status="ok",
        marks=(*resolved.get("warnings", ()), *marks),
        resolved=resolved,
        windows=windows,
        figures=figures(windows),
        **rest,
    )


def figures(windows: Windows) -> Figures:
    """The figures of the windows after the warm-up."""
    steady = slice(num_warm_up(len(windows.seconds)), None)
    seconds, num_steps, examples, waits = (
        np.array(column[steady]) for column in vars(windows).values()
    )
    steps, rates, times = num_steps / seconds, examples / seconds, 1e3 * seconds / num_steps
    quantiles = [np.percentile(one, [50, 20, 80]).tolist() for one in (steps, rates)]
    return Figures(
        steps_per_second=Quantiles(*quantiles[0]),
        examples_per_second=Quantiles(*quantiles[1]),
        **{f"step_time_ms_p{p}": float(np.percentile(times, p)) for p in (50, 95, 99)},
        data_wait_fraction=float(waits.sum() / seconds.sum()),
    )


def measure_pair(cell: Cell, a: Side, b: Side, *, repeat: int, seconds: float) -> Pair:
    """Starts both sides, in every other repeat B first, and lets them warm up and take turns for
    `seconds` together: A B B A, over and over, so that a drift favours neither side and each side
    follows itself, with warm caches, as often as the other.

    Each is halted while the other has its turn, so that it neither takes a core nor prepares
    batches ahead of its own time. Raises what `MeasuredProcess` does.
    """
    with ExitStack() as stack:
        started: list[MeasuredProcess] = []
        for side in (a, b) if repeat % 2 == 0 else (b, a):
            started.append(stack.enter_context(MeasuredProcess(side.settings, code=side.code)))
            if repeat == 0:  # `auto` may run measurements: not both sides at once
                started[-1].wait_until_ready()
        for process in started:
            process.turn(seconds=_TURN_SECONDS)
        for process in started:
            process.stop()
        of_a, of_b = started if repeat % 2 == 0 else started[::-1]
        pids = (of_a.pid, of_b.pid)
        before, end = read_clocks(pids), time.monotonic() + seconds
        rates: dict[MeasuredProcess, list[float]] = {of_a: [], of_b: []}
        while len(rates[of_a]) < _LEAST_TURNS or time.monotonic() < end:
            for process in (of_a, of_b, of_b, of_a):
                rates[process].append(_turn(process))
        marks = marks_between(before, read_clocks(pids))
        resolved_a, resolved_b = (p.wait_until_ready()["resolved"] for p in (of_a, of_b))
    # The n-th turns of A and B are neighbours: the machine is about the same in both.
    log_ratios = np.log(np.array(rates[of_b]) / np.array(rates[of_a]))
    steady = slice(num_warm_up(len(log_ratios)), None)
    return Pair(
        cell=cell,
        repeat=repeat,
        log_ratios=tuple(log_ratios.tolist()),
        examples_per_second_a=float(np.median(rates[of_a][steady])),
        examples_per_second_b=float(np.median(rates[of_b][steady])),
        marks=(*resolved_b.get("warnings", ()), *marks),
        resolved_a={**resolved_a, **a.state},
        resolved_b={**resolved_b, **b.state},
    )


def _turn(process: MeasuredProcess) -> float:
    """Examples/s of a turn, without its first dispatch if there are others: that one finds the
    caches full of the other side's data, which is noise to the comparison."""
    process.go_on()
    windows, _ = process.turn(seconds=_TURN_SECONDS)
    process.stop()
    first = min(1, len(windows.seconds) - 1)
    return sum(windows.examples[first:]) / sum(windows.seconds[first:])


Reading = tuple[float, float, float]
"""Seconds: without and with the time in which the machine slept, and the CPU time of others."""


def read_clocks(own: tuple[int, ...]) -> Reading:
    """Reads the clocks now. `own` has the processes of the measurement besides this one."""
    cpu = psutil.cpu_times()
    # user and nice already include the time of guests (proc(5)); others' machines count (steal).
    others = sum(cpu)
    others -= sum(getattr(cpu, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))
    for pid in (os.getpid(), *own):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended, and its row says so
            others -= sum(psutil.Process(pid).cpu_times()[:2])
    # CLOCK_MONOTONIC stops while Linux sleeps, CLOCK_BOOTTIME does not: clock_gettime(2).
    boot = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.monotonic(), time.clock_gettime(boot), others


def marks_between(before: Reading, after: Reading) -> tuple[str, ...]:
    """What happened between two readings that makes figures doubtful, with the evidence."""
    awake, passed, others = (now - then for then, now in zip(before, after, strict=True))
    cores = psutil.cpu_count() or 1
    found = []
    if passed - awake > _SLEPT_SECONDS:
        found.append(f"the machine slept for {passed - awake:.1f} s")
    if others / awake > _BUSY_SHARE * cores:
        found.append(f"busy: others used {others / awake:.1f} of {cores} cores")
    return tuple(found)
