"""Is B slower than A? Ratios of throughput with intervals that do not take noise for an effect.

A process is the unit: windows of one process share its memory layout, its luck with the scheduler
and its minute of the day, so thousands of windows of a single process prove nothing about the next
(Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013). Each process therefore
counts as one value, the median of its windows, and where the bootstrap is used only processes are
resampled (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8). All
values are logarithms of rates, so that a difference is a ratio.

Of pairs that take turns one may have a side that the machine slows down throughout; the mean of the
others, with an interval that knows of the trimming, survives it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.bench.rows import Cell, Pair, Results, Row
from harness.errors import InputError

CONFIDENCE = 0.99
"""That no interval of a comparison, over all its cells, misses the truth for lack of luck."""
_POWER = 0.8
_TRIMMED = 0.1
"""Of the pairs, at either end: one each of ten to nineteen, none of fewer."""
_NUM_RESAMPLES = 9_999


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Throughput of B over that of A."""

    ratio: float
    low: float
    """The interval's ends."""
    high: float
    detectable: float
    """The smallest share by which B would have to be slower to be found out in four of five such
    comparisons."""
    num_a: int
    """Processes of each side."""
    num_b: int

    @property
    def verdict(self) -> Literal["slower", "faster", "no difference shown"]:
        """Of B, where the interval leaves no doubt."""
        if self.high < 1:
            return "slower"
        return "faster" if self.low > 1 else "no difference shown"

    def is_slower_by(self, share: float) -> bool:
        """Whether the interval shows that B is slower than A by more than `share`."""
        return self.high < 1 - share


def unpaired_effect(
    a: Sequence[float], b: Sequence[float], *, confidence: float = CONFIDENCE
) -> Effect:
    """Compares processes that ran on their own.

    Args:
        a, b: examples/s of each process, at least two for each side.
        confidence: of the interval.

    The interval reaches to the farther, on either side, of Welch's t interval and the bootstrap's:
    of few processes the latter is too narrow (Hesterberg, "What teachers should know about the
    bootstrap", The American Statistician 69, 2015), of skewed ones the former.
    """
    from scipy import stats

    logs_a, logs_b = np.log(np.asarray(a)), np.log(np.asarray(b))
    parts = [np.var(logs, ddof=1) / len(logs) for logs in (logs_a, logs_b)]
    error = math.sqrt(sum(parts))
    # Welch and Satterthwaite's degrees of freedom.
    weights = sum(p**2 / (len(s) - 1) for p, s in zip(parts, (logs_a, logs_b), strict=True))
    freedom = sum(parts) ** 2 / weights if weights else len(logs_a) + len(logs_b) - 2
    at_least = None
    if error > 0:  # else all processes of a side agree to the last bit
        resampled = stats.bootstrap(
            (logs_a, logs_b),
            lambda x, y, axis: np.mean(y, axis=axis) - np.mean(x, axis=axis),
            n_resamples=_NUM_RESAMPLES,
            vectorized=True,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        at_least = (float(resampled.low), float(resampled.high))
    return _effect(
        float(np.mean(logs_b) - np.mean(logs_a)),
        error=error,
        freedom=float(freedom),
        confidence=confidence,
        nums=(len(a), len(b)),
        at_least=at_least,
    )


def log_ratio(log_ratios: Sequence[float], num_warm_up: int) -> float:
    """What a pair of processes counts as, of the figures in `Pair`: the median over neighbouring
    turns after the warm-up. A disturbance of few turns does not move it."""
    return float(np.median(log_ratios[num_warm_up:]))


def paired_effect(log_ratios: Sequence[float], *, confidence: float = CONFIDENCE) -> Effect:
    """Compares processes that took turns, pair by pair.

    Args:
        log_ratios: log of B's rate over A's, of each pair; at least two.
        confidence: of the interval.

    The effect is the mean without the tenth of the pairs at either end, the interval Tukey and
    McLaughlin's for it: Student's t over the winsorized deviation (Yuen, "The two-sample trimmed t
    for unequal population variances", Biometrika 61, 1974). Of fewer than ten pairs none is left
    out, and it is Student's t interval.
    """
    values = np.sort(np.asarray(log_ratios))
    num = len(values)
    cut = int(_TRIMMED * num)
    kept = values[cut : num - cut]
    winsorized = np.clip(values, kept[0], kept[-1])
    squares = float(np.sum((winsorized - np.mean(winsorized)) ** 2))
    return _effect(
        float(np.mean(kept)),
        error=math.sqrt(squares / (len(kept) * (len(kept) - 1))),
        freedom=len(kept) - 1,
        confidence=confidence,
        nums=(num, num),
    )


def _effect(
    centre: float,
    *,
    error: float,
    freedom: float,
    confidence: float,
    nums: tuple[int, int],
    at_least: tuple[float, float] | None = None,
) -> Effect:
    """Student's t interval about `centre`, widened to hold `at_least`; all of it logarithms."""
    from scipy import stats

    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    low, high = centre - reach, centre + reach
    if at_least is not None:
        low, high = min(low, at_least[0]), max(high, at_least[1])
    return Effect(
        ratio=math.exp(centre),
        low=math.exp(low),
        high=math.exp(high),
        # Bloom, "Minimum detectable effects", Evaluation Review 19, 1995.
        detectable=-math.expm1(low - centre - float(stats.t.ppf(_POWER, freedom)) * error),
        num_a=nums[0],
        num_b=nums[1],
    )


@dataclass(frozen=True, kw_only=True)
class CellComparison:
    """One cell in both results."""

    cell: Cell
    effect: Effect
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two results, cell by cell."""

    cells: tuple[CellComparison, ...]
    notes: tuple[str, ...]
    """Of the files as a whole."""


def compare(a: Results, b: Results, *, across_machines: bool) -> Comparison:
    """Compares every cell that both results measured well, at least twice each.

    Raises:
        InputError: when the machines differ and `across_machines` is not set, or no cell can be
            compared.
    """
    machines = [_machine(results) for results in (a, b)]
    if machines[0] != machines[1] and not across_machines:
        raise InputError(
            f"A was measured on {machines[0]}, B on {machines[1]}; measure both on one machine, or "
            "set --across-machines to compare the machines"
        )
    shared = [cell for cell in a.cells if cell in b.cells]
    good = [cell for cell in shared if min(len(_good(r, cell)) for r in (a, b)) >= 2]
    if not good:
        raise InputError(
            f"no cell can be compared: A has {len(a.cells)}, B has {len(b.cells)}, both have "
            f"{len(shared)}, and none of these was measured at least twice in each; run the same "
            "grid for both, with --repeats 2 or more"
        )
    confidence = shared_confidence(len(good))
    compared = []
    for cell in good:
        sides = [_good(results, cell) for results in (a, b)]
        rates_a, rates_b = ([_rate(row) for row in rows] for rows in sides)
        effect = unpaired_effect(rates_a, rates_b, confidence=confidence)
        compared.append(CellComparison(cell=cell, effect=effect, notes=_cell_notes(*sides)))
    return Comparison(cells=tuple(compared), notes=_file_notes(a, b, len(good)))


def compare_pairs(pairs: Sequence[Pair]) -> Comparison:
    """Compares every cell of which at least two pairs of processes were measured."""
    by_cell: dict[Cell, list[Pair]] = {}
    for pair in pairs:
        by_cell.setdefault(pair.cell, []).append(pair)
    enough = {cell: measured for cell, measured in by_cell.items() if len(measured) >= 2}
    confidence = shared_confidence(len(enough))
    return Comparison(
        cells=tuple(
            CellComparison(
                cell=cell,
                effect=paired_effect(
                    [log_ratio(p.log_ratios, p.num_warm_up) for p in measured],
                    confidence=confidence,
                ),
                notes=(
                    *_differences(measured[0].resolved_a, measured[0].resolved_b),
                    *(f"pair {p.repeat + 1}: {mark}" for p in measured for mark in p.marks),
                ),
            )
            for cell, measured in enough.items()
        ),
        notes=(),
    )


def shared_confidence(num_cells: int) -> float:
    """The confidence of each cell's interval, so that all of them together have `CONFIDENCE`
    (Bonferroni): a large grid shall not raise more false alarms than a small one."""
    return 1 - (1 - CONFIDENCE) / max(1, num_cells)


def _good(results: Results, cell: Cell) -> list[Row]:
    return [row for row in results.rows if row.cell == cell and row.figures is not None]


def _rate(row: Row) -> float:
    assert row.figures is not None
    return row.figures.examples_per_second.median


def _machine(results: Results) -> str:
    host = results.provenance.host
    gpus = ", ".join(str(gpu["name"]) for gpu in results.provenance.gpus) or "no GPU"
    memory = round(host["memory_bytes"] / 2**30)  # a boot may leave some pages more or less
    return f"{host['cpu']}, {host['cores']} cores, {memory} GiB, {gpus}"


def _cell_notes(a: Sequence[Row], b: Sequence[Row]) -> tuple[str, ...]:
    marks = [
        f"{side} repeat {row.repeat + 1}: {mark}"
        for side, rows in (("A", a), ("B", b))
        for row in rows
        for mark in row.marks
    ]
    return (*_differences(a[0].resolved, b[0].resolved), *marks)


def _differences(a: Any, b: Any) -> tuple[str, ...]:
    """What each side's settings came to, where that differs."""
    return tuple(
        f"{name} is {a.get(name)} in A and {b.get(name)} in B"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    )


def _file_notes(a: Results, b: Results, num_compared: int) -> tuple[str, ...]:
    notes = [
        f"the {name} settings differ; the ratios say what that costs"
        for name in ("data", "model", "optimizer")
        if a.config.get(name) != b.config.get(name)
    ]
    for what in ("versions", "host"):
        sides = [dict(getattr(r.provenance, what)) for r in (a, b)]
        notes += _differences(*sides)
    left = len(dict.fromkeys((*a.cells, *b.cells))) - num_compared
    if left:
        notes.append(f"{left} cells were not measured twice in both and are left out")
    return tuple(notes)
