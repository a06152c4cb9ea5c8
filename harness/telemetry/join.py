"""Samples to windows: by time, without a thread in sight."""

import itertools
from collections.abc import Iterable, Sequence

from harness.records import Spread
from harness.telemetry.sampler import Sample

COUNTERS = ("energy_joules", "ecc_corrected_errors", "ecc_uncorrected_errors")
"""Figures that only rise, by the last part of their tags."""
_COVERED_SHARE = 0.9


def spreads(samples: Iterable[Sample], start: float, end: float) -> dict[str, Spread]:
    """Each figure in the window (start, end], by the samples that were taken in it.

    Its mean is over the window's time, each moment with the value of the nearest sample that has
    the figure: samples come late on a busy machine, and a plain mean would weigh the stretches
    that they missed for nothing.
    """
    taken: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        if start < sample.seconds <= end:
            for tag, value in sample.figures.items():
                taken.setdefault(tag, []).append((sample.seconds, value))
    return {
        tag: Spread(
            mean=_mean_over_time(found, start, end),
            min=min(value for _, value in found),
            max=max(value for _, value in found),
            num_samples=len(found),
            is_counter=tag.rpartition("/")[2] in COUNTERS,
        )
        for tag, found in taken.items()
    }


def _mean_over_time(found: Sequence[tuple[float, float]], start: float, end: float) -> float:
    """Of a step function that changes in the middle between two samples, which are in order."""
    middles = [(one + other) / 2 for (one, _), (other, _) in itertools.pairwise(found)]
    edges = [start, *middles, end]
    area = sum(
        value * (until - since)
        for (_, value), (since, until) in zip(found, itertools.pairwise(edges), strict=True)
    )
    # Rounding must not carry the mean beyond the extremes.
    values = [value for _, value in found]
    return min(max(area / (end - start), min(values)), max(values))


class EnergyMeter:
    """The energy of the windows alone, from counters of it that were read at other times.

    Between two readings a counter is taken to rise evenly; what falls into a window counts.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[float, float]] = []
        self._pending_from = 0.0  # seconds of the windows before those that are pending
        self._train_seconds = 0.0
        # By tag: time, counter and the windows' seconds at the last reading; then sums.
        self._last: dict[str, tuple[float, float, float]] = {}
        self._joules: dict[str, float] = {}
        self._covered_seconds: dict[str, float] = {}

    def add_window(self, start: float, end: float) -> None:
        """A window's time, in seconds; windows come in order."""
        self._pending.append((start, end))
        self._train_seconds += end - start

    def add_sample(self, sample: Sample) -> None:
        """A reading, whose figures `.../energy_joules` are counters; readings come in order.

        Every window that began before it was added before.
        """
        window_seconds = self._window_seconds_until(sample.seconds)
        for tag, joules in sample.figures.items():
            if not tag.endswith("/energy_joules"):
                continue
            if tag in self._last:
                self._add(tag, sample.seconds, joules, window_seconds)
            self._last[tag] = (sample.seconds, joules, window_seconds)

    def joules(self, num_gpus: int) -> float | None:
        """Of all GPUs in all windows; None where one has no such figure, or one that covers less
        than nine tenths of their time. The rest is taken to be as the part that was covered."""
        covered = list(self._covered_seconds.values())
        if len(covered) < max(1, num_gpus) or min(covered) < _COVERED_SHARE * self._train_seconds:
            return None
        return sum(
            joules * self._train_seconds / self._covered_seconds[tag]
            for tag, joules in self._joules.items()
        )

    def _window_seconds_until(self, now: float) -> float:
        while self._pending and self._pending[0][1] <= now:
            start, end = self._pending.pop(0)
            self._pending_from += end - start
        return self._pending_from + sum(max(0.0, now - start) for start, _ in self._pending)

    def _add(self, tag: str, now: float, joules: float, window_seconds: float) -> None:
        since, before, window_seconds_before = self._last[tag]
        inside = window_seconds - window_seconds_before
        share = inside / (now - since)
        self._covered_seconds[tag] = self._covered_seconds.get(tag, 0.0) + inside
        self._joules[tag] = self._joules.get(tag, 0.0) + share * (joules - before)
