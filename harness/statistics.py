"""Throughput over the windows of a run, in bounded memory."""

import statistics

from harness.records import Window, WindowStatistics

MAX_KEPT = 8192
"""Windows whose rates are kept for the medians; 0.2 kB each."""
_TOTALS = ("num_steps", "examples", "tokens", "skipped_steps", "seconds", "data_wait_seconds")


class RunningStatistics:
    """Adds up windows as they come.

    Medians are exact over the first `MAX_KEPT` windows. After that they are over every second
    window, then over every fourth, and so on.
    """

    def __init__(self) -> None:
        self._rates: list[tuple[float, float, float]] = []
        self._num_windows = 0
        self._every = 1
        self._most_steps = 0
        self._totals: dict[str, float] = dict.fromkeys(_TOTALS, 0)

    def add(self, window: Window) -> None:
        """Adds the next window."""
        if self._num_windows % self._every == 0:
            self._rates.append(
                (window.examples_per_second, window.steps_per_second, window.tokens_per_second)
            )
        if len(self._rates) > MAX_KEPT:
            self._rates = self._rates[::2]
            self._every *= 2
        self._num_windows += 1
        self._most_steps = max(self._most_steps, window.num_steps)
        for name in _TOTALS:
            self._totals[name] += getattr(window, name)

    def result(self) -> WindowStatistics:
        """The statistics so far."""
        if not self._rates:
            return WindowStatistics()
        examples, steps, tokens = map(statistics.median, zip(*self._rates, strict=True))
        totals, seconds = self._totals, self._totals["seconds"]
        return WindowStatistics(
            examples_per_second=examples,
            steps_per_second=steps,
            tokens_per_second=tokens,
            mean_examples_per_second=totals["examples"] / seconds,
            mean_steps_per_second=totals["num_steps"] / seconds,
            mean_tokens_per_second=totals["tokens"] / seconds,
            data_wait_fraction=totals["data_wait_seconds"] / seconds,
            train_seconds=seconds,
            examples=int(totals["examples"]),
            skipped_steps=int(totals["skipped_steps"]),
            most_steps=self._most_steps,
        )
