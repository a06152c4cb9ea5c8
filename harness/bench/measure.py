"""One measurement: a process of its own becomes a row, two processes that take turns become a pair.

In turns a machine that drifts favours neither side.
"""

import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.bench import machine
from harness.bench.effects import is_steady, num_warm_up
from harness.bench.process import MeasuredProcess
from harness.bench.results import Cell, Figures, Pair, Quantiles, Row, Windows
from harness.child import OWN_CODE, ProcessEndedError

_ROUND = "ABBABAAB"
"""The order of turns (Thue and Morse). Each two hold one turn of each side, so a drift favours
neither, and each side follows itself, with warm caches, as often as the other."""
_TURN_SECONDS = 0.05
"""Short, so that the machine is about the same in the turns of a round. A turn is at least one
dispatch, so it may last longer."""
_LEAST_ROUNDS = 3


def measure(
    cell: Cell,
    settings: Mapping[str, Any],
    *,
    repeat: int,
    seconds: float | None,
    steps: int | None,
) -> Row:
    """Trains with `settings` in a process of its own, for a time or a number of steps.

    If the process ends or runs out of memory, the row says so.

    Raises:
        InputError: when the settings do not fit the data or the devices.
    """
    load = machine.load_average()
    try:
        with MeasuredProcess(settings) as process:
            ready = process.wait_until_ready()
            before = machine.read((process.pid,))
            with machine.gpu_utilization(tuple(ready["pci_bus_ids"])) as percents:
                turn = process.turn(seconds=seconds, steps=steps)
            marks = machine.marks(before, machine.read((process.pid,)))
    except ProcessEndedError as error:
        return Row(
            cell=cell,
            repeat=repeat,
            status=error.status,
            note=str(error),
            load_average_before=load,
            load_average_after=machine.load_average(),
        )
    step_times = np.array(turn.windows.seconds) / np.array(turn.windows.num_steps)
    warm_up = num_warm_up(step_times)
    marks = (*ready["resolved"].get("warnings", ()), *marks)
    if not is_steady(step_times):
        marks = (*marks, "not steady: the step time still changes; set a longer --seconds")
    return Row(
        cell=cell,
        repeat=repeat,
        status="ok",
        marks=marks,
        resolved=ready["resolved"],
        windows=turn.windows,
        num_warm_up_windows=warm_up,
        figures=figures(turn.windows, warm_up),
        compile_seconds=turn.compile_seconds,
        start_seconds=ready["start_seconds"],
        peak_rss_bytes=turn.peak_rss_bytes,
        peak_device_bytes=turn.peak_device_bytes,
        device_utilization_percent=statistics.median(percents) if percents else None,
        load_average_before=load,
        load_average_after=machine.load_average(),
    )


def figures(windows: Windows, num_warm_up_windows: int) -> Figures:
    """The figures of the windows after the warm-up, of which there is at least one."""
    steady = slice(num_warm_up_windows, None)
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


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison: what it trains, and the version of the code that does."""

    settings: Mapping[str, Any]
    """By their bare names."""
    code: Path = OWN_CODE
    """The root folder of the version."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """`code_state` of that version, for the record."""


def measure_pair(cell: Cell, a: Side, b: Side, *, repeat: int, seconds: float) -> Pair:
    """Starts both sides, lets them warm up, and lets them take turns.

    Args:
        cell: for the record.
        a, b: the sides. In every other repeat B starts first.
        repeat: counted from 0.
        seconds: for both sides together.

    Raises:
        InputError: when the settings of a side do not fit the data or the devices.
        ProcessEndedError: a side ended.
    """
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
    """Lets two processes take turns: A B B A B A A B, over and over.

    Each is halted while the other has its turn, so that it neither takes a core nor prepares
    batches ahead of its own time. Both are halted before and afterwards.

    Raises:
        ProcessEndedError: one ended.
    """
    processes = {"A": a, "B": b}
    pids = (a.pid, b.pid)
    before = machine.read(pids)
    rates: dict[str, list[float]] = {"A": [], "B": []}
    rounds = 0
    while rounds < _LEAST_ROUNDS or machine.read(pids).awake - before.awake < seconds:
        for name in _ROUND:
            rates[name].append(_turn(processes[name]))
        rounds += 1
    # In `_ROUND` the n-th turns of A and B are neighbours: the machine is about the same in both.
    ratios = np.array(rates["B"]) / np.array(rates["A"])
    steady = {n: np.median(r[num_warm_up(1 / np.array(r)) :]) for n, r in rates.items()}
    resolved_a, resolved_b = (process.wait_until_ready()["resolved"] for process in (a, b))
    return Pair(
        cell=cell,
        repeat=repeat,
        log_ratios=tuple(np.log(ratios).tolist()),
        num_warm_up=num_warm_up(ratios),
        examples_per_second_a=float(steady["A"]),
        examples_per_second_b=float(steady["B"]),
        marks=(*resolved_b.get("warnings", ()), *machine.marks(before, machine.read(pids))),
        resolved_a=resolved_a,
        resolved_b=resolved_b,
    )


def _turn(process: MeasuredProcess) -> float:
    """Examples/s of a turn, without its first dispatch if there are others: that one finds the
    caches full of the other side's data, which is noise to the comparison."""
    process.go_on()
    windows = process.turn(seconds=_TURN_SECONDS).windows
    process.stop()
    first = min(1, len(windows.seconds) - 1)
    return sum(windows.examples[first:]) / sum(windows.seconds[first:])
