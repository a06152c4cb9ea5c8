"""Throughput over the windows of a run, in bounded memory."""

import statistics

from harness.records import Window, WindowStatistics

MAX_KEPT = 8192
"""Windows whose rates are kept for the medians; 0.2 kB each."""


class RunningStatistics:
    """Adds up windows as they come.

    Medians are exact over the first `MAX_KEPT` windows. After that they are over every second
    window, then over every fourth, and so on.
    """

    def __init__(self) -> None:
        self._rates: list[tuple[float, float, float]] = []
        self._num_windows = 0
        self._every = 1
        self._num_steps = self._examples = self._tokens = self._skipped_steps = 0
        self._most_steps = 0
        self._seconds = self._data_wait_seconds = 0.0

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
        self._num_steps += window.num_steps
        self._examples += window.examples
        self._tokens += window.tokens
        self._skipped_steps += window.skipped_steps
        self._most_steps = max(self._most_steps, window.num_steps)
        self._seconds += window.seconds
        self._data_wait_seconds += window.data_wait_seconds

    def result(self) -> WindowStatistics:
        """The statistics so far."""
        if not self._rates:
            return WindowStatistics()
        examples, steps, tokens = map(statistics.median, zip(*self._rates, strict=True))
        return WindowStatistics(
            examples_per_second=examples,
            steps_per_second=steps,
            tokens_per_second=tokens,
            mean_examples_per_second=self._examples / self._seconds,
            mean_steps_per_second=self._num_steps / self._seconds,
            mean_tokens_per_second=self._tokens / self._seconds,
            data_wait_fraction=self._data_wait_seconds / self._seconds,
            train_seconds=self._seconds,
            examples=self._examples,
            skipped_steps=self._skipped_steps,
            most_steps=self._most_steps,
        )
