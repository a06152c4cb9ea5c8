"""Samples to windows: by time, without a thread in sight."""

from collections.abc import Iterable

from harness.records import Spread
from harness.telemetry.sampler import Sample

COUNTERS = ("energy_joules", "ecc_corrected_errors", "ecc_uncorrected_errors")
"""Figures that only rise, by the last part of their tags."""
_COVERED_SHARE = 0.9


def spreads(samples: Iterable[Sample]) -> dict[str, Spread]:
    """Each figure of the samples: mean, least, most, and how many samples had it."""
    values: dict[str, list[float]] = {}
    for sample in samples:
        for tag, value in sample.figures.items():
            values.setdefault(tag, []).append(value)
    return {
        tag: Spread(
            mean=sum(found) / len(found),
            min=min(found),
            max=max(found),
            num_samples=len(found),
            is_counter=tag.rpartition("/")[2] in COUNTERS,
        )
        for tag, found in values.items()
    }


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
