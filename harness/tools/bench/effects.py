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
_TENTH = math.log(1.1)


def num_warm_up(num: int) -> int:
    """How many of `num` windows or turns count as warm-up and are left out: the first fifth."""
    return num // 5


def is_steady(times: npt.NDArray[np.float64]) -> bool:
    """Whether the medians of both halves after the warm-up differ by less than a tenth. If not, the
    warm-up was not over, or the machine changed its pace. Fewer than ten times tell nothing."""
    halves = np.array_split(np.log(times[num_warm_up(len(times)) :]), 2)
    return len(times) < 10 or bool(abs(np.median(halves[0]) - np.median(halves[1])) <= _TENTH)


def log_ratio(log_ratios: Sequence[float]) -> float:
    """What a pair of processes counts as: the median over its neighbouring turns after the warm-up,
    so that a few disturbed turns do not change it."""
    return float(np.median(log_ratios[num_warm_up(len(log_ratios)) :]))


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


def unpaired_effect(
    a: Sequence[float], b: Sequence[float], *, confidence: float = CONFIDENCE
) -> Effect:
    """Compares processes that ran one at a time, at least two on each side, from the examples/s of
    each, by Welch's t interval."""
    logs = [np.log(np.asarray(rates)) for rates in (a, b)]
    parts = [float(np.var(side, ddof=1)) / len(side) for side in logs]
    # Welch and Satterthwaite's degrees of freedom; any number serves where there is no variance.
    weights = sum(p**2 / (len(side) - 1) for p, side in zip(parts, logs, strict=True))
    freedom = sum(parts) ** 2 / weights if weights else 1.0
    centre = float(np.mean(logs[1]) - np.mean(logs[0]))
    return _effect(centre, math.sqrt(sum(parts)), freedom, confidence, num_a=len(a), num_b=len(b))


def paired_effect(log_ratios: Sequence[float], *, confidence: float = CONFIDENCE) -> Effect:
    """Compares processes that took turns, from the `log_ratio` of each of at least two pairs.

    The machine may slow down one side of a pair throughout. The effect is therefore the mean
    without the tenth of the pairs at each end, with Tukey and McLaughlin's interval: Student's t
    over the winsorized deviation (Yuen, "The two-sample trimmed t for unequal population
    variances", Biometrika 61, 1974). With fewer than ten pairs this is Student's t interval.
    """
    values = np.sort(np.asarray(log_ratios))
    cut = int(_TRIMMED * len(values))
    kept = values[cut : len(values) - cut]
    squares = float(np.var(np.clip(values, kept[0], kept[-1]))) * len(values)
    error = math.sqrt(squares / (len(kept) * (len(kept) - 1)))
    num, freedom = len(values), len(kept) - 1
    return _effect(float(np.mean(kept)), error, freedom, confidence, num_a=num, num_b=num)


def _effect(centre: float, error: float, freedom: float, confidence: float, **nums: int) -> Effect:
    """Student's t interval around `centre`; all of it logarithms."""
    from scipy import stats

    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    with np.errstate(over="ignore"):  # infinity for rates that no machine has
        ratio, low, high = np.exp([centre, centre - reach, centre + reach]).tolist()
    return Effect(
        ratio=ratio,
        low=low,
        high=high,
        # Bloom, "Minimum detectable effects", Evaluation Review 19, 1995.
        detectable=-math.expm1(-reach - float(stats.t.ppf(_POWER, freedom)) * error),
        **nums,
    )
