"""What many windows come to: the figures that the console, TensorBoard and summary.json share."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.records import Window


@dataclass(frozen=True, kw_only=True)
class WindowStatistics:
    """Throughput over some windows; compilation lies outside every window."""

    examples_per_second: float
    """Median over windows; so are the two below. One slow window does not move it."""
    steps_per_second: float
    tokens_per_second: float
    step_time_ms_p50: float
    step_time_ms_p95: float
    mean_examples_per_second: float
    """All examples over `train_seconds`, so that every window counts by its length. What a clock
    beside the run says; so are the two below."""
    mean_steps_per_second: float
    mean_tokens_per_second: float
    data_wait_fraction: float
    """Share of the windows' whole time, so that a single long wait counts in full."""
    train_seconds: float
    """Sum of the windows' times."""


def window_statistics(windows: Sequence[Window]) -> WindowStatistics:
    """Sums up at least one window. Percentiles are `percentile`'s, each window counting once.

    Raises:
        ValueError: when there is no window.
    """
    if not windows:
        raise ValueError("no window to sum up")
    step_times_ms = [window.step_time_ms for window in windows]
    train_seconds = sum(window.seconds for window in windows)
    return WindowStatistics(
        examples_per_second=statistics.median(w.examples_per_second for w in windows),
        steps_per_second=statistics.median(w.steps_per_second for w in windows),
        tokens_per_second=statistics.median(w.tokens_per_second for w in windows),
        step_time_ms_p50=percentile(step_times_ms, 50),
        step_time_ms_p95=percentile(step_times_ms, 95),
        mean_examples_per_second=sum(w.examples for w in windows) / train_seconds,
        mean_steps_per_second=sum(w.num_steps for w in windows) / train_seconds,
        mean_tokens_per_second=sum(w.tokens for w in windows) / train_seconds,
        data_wait_fraction=sum(w.data_wait_seconds for w in windows) / train_seconds,
        train_seconds=train_seconds,
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which `percent` (1 to 99) of the values lie, interpolated linearly.

    The same as NumPy's default method. One value is its own percentile.

    Raises:
        ValueError: when there is no value, or `percent` is outside 1 to 99.
    """
    if not 1 <= percent <= 99:
        raise ValueError(f"percent is {percent}; it must be in [1, 99]")
    if len(values) == 1:
        return values[0]  # quantiles() wants two before Python 3.13
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
