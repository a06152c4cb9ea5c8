"""The statistics of a benchmark: where the warm-up ends, and the ratio of two programs' throughput.

A process is the unit of a comparison. Windows of one process share its memory layout, its luck with
the scheduler and its minute of the day, so thousands of windows of one process say nothing about
the next one (Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013). Each
process therefore counts as one value, the median of its windows. All values are logarithms of
rates, so that a difference is a ratio.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.99
"""Probability that all intervals of a comparison, over all its cells, contain the true ratios."""
_POWER = 0.8
_TRIMMED = 0.1
"""Share of the pairs left out at each end: one of ten to nineteen, none of fewer."""

_BATCH = 5
"""MSER-5 looks at means of five values; of single values where there are fewer than `_FEW`."""
_FEW = 50
_STANDARD_ERRORS = 3.5
_TENTH = np.log(1.1)
_MAD_TO_DEVIATION = 1.4826


def num_warm_up(times: npt.ArrayLike) -> int:
    """How many leading values to leave out, by the marginal standard error rule (MSER-5).

    The cut d minimizes var(x[d:]) / (n - d), the squared standard error of the mean of what
    remains, over the first half of the series (White, "An effective truncation heuristic for bias
    reduction in simulation output", Simulation 69, 1997; batches of five: Spratt 1998). A running
    median of three first removes single spikes, which are noise and not warm-up. The mean of the
    part that is cut off must differ from the rest by more than noise explains.

    Args:
        times: any positive quantity of each window, in order, [n].

    Returns:
        From 0 to n // 2. `is_steady` tells whether the remaining half is any better.
    """
    values = np.log(np.asarray(times, dtype=np.float64))
    if len(values) >= 3:
        middle = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
        values = np.concatenate([values[:1], middle, values[-1:]])
    batch = _BATCH if len(values) >= _FEW else 1
    means = values[: len(values) // batch * batch].reshape(-1, batch).mean(axis=1)
    num = len(means)
    if num < 4:  # too few to tell anything
        return 0
    errors = [np.var(means[cut:]) / (num - cut) for cut in range(num // 2 + 1)]
    cut = int(np.argmin(errors)) * batch
    if cut == 0:
        return 0
    # On noise alone the minimum lies anywhere.
    rest = values[cut:]
    noise = _STANDARD_ERRORS * _deviation(rest) / cut**0.5
    return cut if abs(values[:cut].mean() - np.median(rest)) > noise else 0


def is_steady(times: npt.ArrayLike) -> bool:
    """Whether the two parts of the second half agree: their medians differ by less than a tenth, or
    by less than twice the noise from one value to the next. If not, the warm-up was not over."""
    values = np.log(np.asarray(times, dtype=np.float64))
    half = values[len(values) // 2 :]
    if len(half) < 4:
        return True
    first, last = np.median(half[: len(half) // 2]), np.median(half[len(half) // 2 :])
    noise = _deviation(np.diff(half)) / np.sqrt(2)  # differences do not contain a trend
    return bool(abs(first - last) <= max(_TENTH, 2 * noise))


def _deviation(values: npt.NDArray[np.float64]) -> float:
    """The standard deviation, estimated from the median absolute deviation to resist outliers."""
    return float(_MAD_TO_DEVIATION * np.median(np.abs(values - np.median(values))))


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Throughput of B over that of A, with its confidence interval."""

    ratio: float
    low: float
    high: float
    detectable: float
    """The smallest slowdown of B, as a share, that four of five such comparisons would find."""
    num_a: int
    """Processes of each side."""
    num_b: int

    @property
    def verdict(self) -> Literal["slower", "faster", "no difference shown"]:
        """Whether the whole interval lies on one side of 1."""
        if self.high < 1:
            return "slower"
        return "faster" if self.low > 1 else "no difference shown"

    def gate(self, allowed: float) -> Literal["passed", "inconclusive", "failed"]:
        """Judges B against an allowed slowdown, a share: failed where the whole interval shows that
        B is slower by more, passed where it excludes that, else inconclusive."""
        if self.high < 1 - allowed:
            return "failed"
        return "passed" if self.low >= 1 - allowed else "inconclusive"


def shared_confidence(num_cells: int) -> float:
    """The confidence of each cell's interval, so that all of them together have `CONFIDENCE`
    (Bonferroni): a large grid must not raise more false alarms than a small one."""
    return 1 - (1 - CONFIDENCE) / max(1, num_cells)


def unpaired_effect(
    a: Sequence[float], b: Sequence[float], *, confidence: float = CONFIDENCE
) -> Effect:
    """Compares processes that ran one at a time, by Welch's t interval.

    Args:
        a, b: examples/s of each process, at least two on each side.
        confidence: of the interval.
    """
    logs = [np.log(np.asarray(rates)) for rates in (a, b)]
    parts = [float(np.var(side, ddof=1)) / len(side) for side in logs]
    # Welch and Satterthwaite's degrees of freedom; any number serves where there is no variance.
    weights = sum(p**2 / (len(side) - 1) for p, side in zip(parts, logs, strict=True))
    return _effect(
        float(np.mean(logs[1]) - np.mean(logs[0])),
        error=math.sqrt(sum(parts)),
        freedom=sum(parts) ** 2 / weights if weights else 1.0,
        confidence=confidence,
        nums=(len(a), len(b)),
    )


def log_ratio(log_ratios: Sequence[float], num_warm_up: int) -> float:
    """The value that a pair of processes counts as: the median over its neighbouring turns after
    the warm-up, so that a few disturbed turns do not change it. The arguments are those of `Pair`.
    """
    return float(np.median(log_ratios[num_warm_up:]))


def paired_effect(log_ratios: Sequence[float], *, confidence: float = CONFIDENCE) -> Effect:
    """Compares processes that took turns, pair by pair.

    Args:
        log_ratios: log of B's rate over A's, of each pair; at least two.
        confidence: of the interval.

    The machine may slow down one side of a pair throughout. The effect is therefore the mean
    without the tenth of the pairs at each end, with Tukey and McLaughlin's interval: Student's t
    over the winsorized deviation (Yuen, "The two-sample trimmed t for unequal population
    variances", Biometrika 61, 1974). Of fewer than ten pairs none is left out, and this is
    Student's t interval.
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
    centre: float, *, error: float, freedom: float, confidence: float, nums: tuple[int, int]
) -> Effect:
    """Student's t interval around `centre`; all of it logarithms."""
    from scipy import stats

    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return Effect(
        ratio=_exp(centre),
        low=_exp(centre - reach),
        high=_exp(centre + reach),
        # Bloom, "Minimum detectable effects", Evaluation Review 19, 1995.
        detectable=-math.expm1(-reach - float(stats.t.ppf(_POWER, freedom)) * error),
        num_a=nums[0],
        num_b=nums[1],
    )


def _exp(power: float) -> float:
    """Infinity, not an OverflowError, for rates that no machine has."""
    with np.errstate(over="ignore"):
        return float(np.exp(power))
