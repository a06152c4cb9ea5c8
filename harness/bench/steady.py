"""Where a series of times becomes steady: warm-up is detected, not assumed."""

import numpy as np
import numpy.typing as npt

_BATCH = 5
"""MSER-5: the rule looks at means of five; at single values where there are few."""
_FEW = 50
_ERRORS = 3.5
"""Standard errors."""
_TENTH = np.log(1.1)
_MAD_TO_DEVIATION = 1.4826


def num_warm_up(times: npt.ArrayLike) -> int:
    """How many leading values to leave out, by the marginal standard error rule (MSER-5).

    The cut d minimizes var(x[d:]) / (n - d), the squared standard error of the mean of what is
    left, over the first half of the series (White, "An effective truncation heuristic for bias
    reduction in simulation output", Simulation 69, 1997; batches of five: Spratt 1998). Each value
    but the first and last is replaced by the median of itself and its neighbours before, so that
    one spike, which is noise and no warm-up, does not decide; and the mean of what is cut off has
    to differ from the rest by more than noise explains.

    Args:
        times: any positive quantity of each window, in order, [n].

    Returns:
        From 0 to n // 2. `is_steady` tells whether the half left is any better.
    """
    values = _without_spikes(np.log(np.asarray(times, dtype=np.float64)))
    batch = _BATCH if len(values) >= _FEW else 1
    means = values[: len(values) // batch * batch].reshape(-1, batch).mean(axis=1)
    num = len(means)
    if num < 4:  # nothing can be told from so few
        return 0
    errors = [np.var(means[cut:]) / (num - cut) for cut in range(num // 2 + 1)]
    cut = int(np.argmin(errors)) * batch
    # On mere noise the minimum lies anywhere: what is like the rest is no warm-up.
    rest = values[cut:]
    if (
        cut == 0
        or abs(values[:cut].mean() - np.median(rest)) <= _ERRORS * _deviation(rest) / cut**0.5
    ):
        return 0
    return cut


def is_steady(times: npt.ArrayLike) -> bool:
    """Whether the two parts of the second half agree: their medians lie within a tenth, or within
    twice the noise from one value to the next. False says that the warm-up was not over."""
    values = np.log(np.asarray(times, dtype=np.float64))
    half = values[len(values) // 2 :]
    if len(half) < 4:
        return True
    first, last = np.median(half[: len(half) // 2]), np.median(half[len(half) // 2 :])
    noise = _deviation(np.diff(half)) / np.sqrt(2)  # which no trend enters
    return bool(abs(first - last) <= max(_TENTH, 2 * noise))


def _without_spikes(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Running medians of three; the ends as they are."""
    if len(values) < 3:
        return values
    inner = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
    return np.concatenate([values[:1], inner, values[-1:]])


def _deviation(values: npt.NDArray[np.float64]) -> float:
    """A standard deviation that outliers do not move, from the median absolute deviation."""
    return float(_MAD_TO_DEVIATION * np.median(np.abs(values - np.median(values))))
