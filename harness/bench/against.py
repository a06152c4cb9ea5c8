"""Two programs in turn: both stay loaded, and a machine that drifts favours neither."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.bench import machine
from harness.bench.process import OWN_CODE, MeasuredProcess
from harness.bench.protocol import Job
from harness.bench.rows import Cell, Pair
from harness.bench.steady import num_warm_up

_ROUND = "ABBABAAB"
"""The order of turns (Thue and Morse), by twos, one turn of either side: a drift favours neither,
and each side goes on after itself, with warm caches, as often as the other."""
_TURN_SECONDS = 0.05
"""Short: the machine is about the same in the turns of a round. A turn is at least one dispatch, so
it may last longer."""
_LEAST_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Side:
    """A program: what it trains, and the root of the code that it runs."""

    job: Job
    code: Path = OWN_CODE
    slow_down: float = 0.0
    """See `MeasuredProcess.turn`."""


def measure_pair(cell: Cell, a: Side, b: Side, *, repeat: int, seconds: float) -> Pair:
    """Starts both sides, and lets them take turns: A B B A B A A B, over and over.

    While one has its turn the other is halted whole, so that it neither takes a core nor prepares
    batches ahead that would not be on its bill.

    Args:
        cell: for the record.
        a, b: the sides; in every other repeat B is started first.
        repeat: counted from 0.
        seconds: for both sides together, warm-up included.

    Raises:
        InputError: when the settings of a side do not fit the data or the devices.
        OutOfMemoryError, ProcessFailedError: a side ended.
    """
    with ExitStack() as stack:
        processes: dict[str, MeasuredProcess] = {}
        for name in "AB" if repeat % 2 == 0 else "BA":
            side = a if name == "A" else b
            processes[name] = stack.enter_context(MeasuredProcess(side.job, code=side.code))
            if repeat == 0:  # `auto` may measure: not while the other side does
                processes[name].wait_until_ready()
        for process in processes.values():
            process.wait_until_ready()
            process.turn(seconds=_TURN_SECONDS)
        for process in processes.values():
            process.stop()
        turns = take_turns(
            processes["A"], processes["B"], seconds=seconds, slow_downs=(a.slow_down, b.slow_down)
        )
        return Pair(
            cell=cell,
            repeat=repeat,
            log_ratios=turns.log_ratios,
            num_warm_up=turns.num_warm_up,
            examples_per_second_a=turns.rate_a,
            examples_per_second_b=turns.rate_b,
            marks=turns.marks,
            resolved_a=_resolved(processes["A"], a),
            resolved_b=_resolved(processes["B"], b),
        )


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What two processes did in turn; see `Pair`."""

    log_ratios: tuple[float, ...]
    num_warm_up: int
    rate_a: float
    rate_b: float
    marks: tuple[str, ...]


def take_turns(
    a: MeasuredProcess,
    b: MeasuredProcess,
    *,
    seconds: float,
    slow_downs: tuple[float, float] = (0.0, 0.0),
) -> Turns:
    """Lets two processes, which are halted before and afterwards, take turns.

    Raises:
        OutOfMemoryError, ProcessFailedError: one ended.
    """
    sides = {"A": (a, slow_downs[0]), "B": (b, slow_downs[1])}
    pids = (a.pid, b.pid)
    before = machine.read(pids)
    rates: dict[str, list[float]] = {"A": [], "B": []}
    rounds = 0
    while rounds < _LEAST_ROUNDS or machine.read(pids).awake - before.awake < seconds:
        for name in _ROUND:
            rates[name].append(_turn(*sides[name]))
        rounds += 1
    # In `_ROUND` the n-th turns of A and B are neighbours: the machine is about the same in both.
    ratios = np.array(rates["B"]) / np.array(rates["A"])
    steady = {n: np.median(r[num_warm_up(1 / np.array(r)) :]) for n, r in rates.items()}
    return Turns(
        log_ratios=tuple(np.log(ratios).tolist()),
        num_warm_up=num_warm_up(ratios),
        rate_a=float(steady["A"]),
        rate_b=float(steady["B"]),
        marks=machine.marks(before, machine.read(pids)),
    )


def _turn(process: MeasuredProcess, slow_down: float) -> float:
    """Examples/s of a turn, without its first dispatch where it has others: that one finds the
    caches full of the other side's data, which is noise to the comparison."""
    process.go_on()
    windows = process.turn(seconds=_TURN_SECONDS, slow_down=slow_down).windows
    process.stop()
    first = min(1, len(windows.seconds) - 1)
    return sum(windows.examples[first:]) / sum(windows.seconds[first:])


def _resolved(process: MeasuredProcess, side: Side) -> Mapping[str, Any]:
    commit, dirty = machine.code_state(side.code)
    return {**process.wait_until_ready()["resolved"], "commit": commit, "dirty": dirty}
