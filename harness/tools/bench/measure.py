"""A process of its own becomes a row; two processes that take turns become a pair."""

import contextlib
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import psutil

from harness.tools.bench.effects import is_steady, num_warm_up
from harness.tools.bench.process import MeasuredProcess, ProcessEndedError, Side
from harness.tools.bench.results import Cell, Figures, Pair, Quantiles, Row, Windows

_TURN_SECONDS = 0.05
"""Short, so that the machine is about the same in the turns of a round. A turn is at least one
dispatch, so it may last longer."""
_LEAST_TURNS = 12
"""Of each side."""
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
    """Trains with `settings` in a process of its own, for a time or a number of steps. If the
    process ends or runs out of memory, the row says so. Raises InputError when the settings do not
    fit the data or the devices."""
    try:
        with MeasuredProcess(settings) as process:
            resolved = process.wait_until_ready()["resolved"]
            before = read_clocks((process.pid,))
            windows, rest = process.turn(seconds=seconds, steps=steps)
            marks = marks_between(before, read_clocks((process.pid,)))
    except ProcessEndedError as error:
        return Row(cell=cell, repeat=repeat, status=error.status, note=str(error))
    marks = (*resolved.get("warnings", ()), *marks)
    if not is_steady(np.array(windows.seconds) / np.array(windows.num_steps)):
        marks = (*marks, "not steady: the step time still changes; set a longer --seconds")
    return Row(
        cell=cell,
        repeat=repeat,
        status="ok",
        marks=marks,
        resolved=resolved,
        windows=windows,
        figures=figures(windows),
        **rest,
    )


def figures(windows: Windows) -> Figures:
    """The figures of the windows after the warm-up."""
    steady = slice(num_warm_up(len(windows.seconds)), None)
    seconds = np.array(windows.seconds[steady])
    num_steps = np.array(windows.num_steps[steady])
    p50, p95, p99 = np.percentile(1e3 * seconds / num_steps, [50, 95, 99]).tolist()
    return Figures(
        steps_per_second=_quantiles(num_steps / seconds),
        examples_per_second=_quantiles(np.array(windows.examples[steady]) / seconds),
        step_time_ms_p50=p50,
        step_time_ms_p95=p95,
        step_time_ms_p99=p99,
        data_wait_fraction=float(sum(windows.data_wait_seconds[steady]) / seconds.sum()),
    )


def _quantiles(rates: np.ndarray) -> Quantiles:
    p20, median, p80 = np.percentile(rates, [20, 50, 80]).tolist()
    return Quantiles(median=median, p20=p20, p80=p80)


def measure_pair(cell: Cell, a: Side, b: Side, *, repeat: int, seconds: float) -> Pair:
    """Starts both sides, in every other repeat B first, and lets them warm up and take turns for
    `seconds` together. Raises what `MeasuredProcess` does."""
    with ExitStack() as stack:
        processes: dict[str, MeasuredProcess] = {}
        for name, side in (("A", a), ("B", b)) if repeat % 2 == 0 else (("B", b), ("A", a)):
            processes[name] = stack.enter_context(MeasuredProcess(side.settings, code=side.code))
            if repeat == 0:  # `auto` may run measurements: not both sides at once
                processes[name].wait_until_ready()
        for process in processes.values():
            process.turn(seconds=_TURN_SECONDS)
        for process in processes.values():
            process.stop()
        pair = take_turns(cell, processes["A"], processes["B"], repeat=repeat, seconds=seconds)
    return replace(
        pair,
        resolved_a={**pair.resolved_a, **a.state},
        resolved_b={**pair.resolved_b, **b.state},
    )


def take_turns(
    cell: Cell, a: MeasuredProcess, b: MeasuredProcess, *, repeat: int, seconds: float
) -> Pair:
    """Lets two processes take turns: A B B A, over and over, so that a drift favours neither side
    and each side follows itself, with warm caches, as often as the other.

    Each is halted while the other has its turn, so that it neither takes a core nor prepares
    batches ahead of its own time. Both are halted before and afterwards.
    """
    pids = (a.pid, b.pid)
    before, end = read_clocks(pids), time.monotonic() + seconds
    rates: dict[MeasuredProcess, list[float]] = {a: [], b: []}
    while len(rates[a]) < _LEAST_TURNS or time.monotonic() < end:
        for process in (a, b, b, a):
            rates[process].append(_turn(process))
    # The n-th turns of A and B are neighbours: the machine is about the same in both.
    log_ratios = np.log(np.array(rates[b]) / np.array(rates[a]))
    steady = slice(num_warm_up(len(log_ratios)), None)
    resolved_a, resolved_b = (process.wait_until_ready()["resolved"] for process in (a, b))
    return Pair(
        cell=cell,
        repeat=repeat,
        log_ratios=tuple(log_ratios.tolist()),
        examples_per_second_a=float(np.median(rates[a][steady])),
        examples_per_second_b=float(np.median(rates[b][steady])),
        marks=(*resolved_b.get("warnings", ()), *marks_between(before, read_clocks(pids))),
        resolved_a=resolved_a,
        resolved_b=resolved_b,
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
