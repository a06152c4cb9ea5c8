"""Telemetry of a run: GPUs and host, sampled in the background and joined with windows by time."""

import functools
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Self

from harness.observe.host import host_samples
from harness.observe.sampler import Read, Sample, Sampler, Tell
from harness.observe.visible import hides_all
from harness.records import MachineUse, Message, Spread, Telemetry

STOP_SECONDS = 3.0
"""How long the end of a run waits for a sampler that is within a call."""
SILENT_SECONDS = 15.0
"""A call that takes longer is reported; NVML may take many seconds to open on large machines."""
COUNTERS = ("energy_joules", "ecc_corrected_errors", "ecc_uncorrected_errors")
"""Values that only rise, by the last part of their tags."""
_COVERED_SHARE = 0.9


class MachineTelemetry(Telemetry):
    """Samples GPUs and host until it is finished or, as a context, left.

    A sample belongs to the window in whose time it was complete; samples between windows (during
    compilation, evaluation, saving) belong to none. NVML is called on the sampler's thread alone.
    """

    def __init__(
        self,
        *,
        hz: float,
        bus_ids: Sequence[str],
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Args:
        hz: samples a second; 0 for none.
        bus_ids: PCI addresses of the GPUs that the run trains on; empty on CPU.
        environment: has the CUDA_* variables.
        clock: the loop's.
        """
        self._bus_ids = bus_ids
        self._environment = environment
        self._clock = clock
        self._energy = EnergyMeter()
        self._gpus_seen: set[str] = set()
        self._silent: set[Sampler] = set()
        self._left_behind: list[Message] = []
        self._finished = False
        self._gpus: Sampler | None = None
        self._samplers: tuple[Sampler, ...] = ()
        if hz > 0:
            source = functools.partial(host_samples, clock=clock)
            self._samplers = (Sampler("host", source, hz=hz, clock=clock),)
        if hz > 0 and (bus_ids or not hides_all(environment)):
            self._gpus = Sampler("GPUs", self._open_gpus, hz=hz, clock=clock)
            self._samplers = (*self._samplers, self._gpus)

    def __enter__(self) -> Self:
        """Starts sampling, so that NVML is open before the first program is compiled."""
        for sampler in self._samplers:
            sampler.start()
        return self

    def __exit__(self, *error: object) -> None:
        for sampler in self._samplers:
            sampler.stop(0.0 if self._finished else STOP_SECONDS)

    def window(self, start: float, end: float) -> Mapping[str, Spread]:
        self._energy.add_window(start, end)
        found: dict[str, Spread] = {}
        for sampler in self._samplers:
            found |= spreads(self._take(sampler, until=end), start, end)
        return found

    def messages(self) -> Iterator[Message]:
        for sampler in self._samplers:
            yield from sampler.messages()
            if sampler.silent_seconds > SILENT_SECONDS and sampler not in self._silent:
                self._silent.add(sampler)
                yield _unanswered(sampler, "training continues without it")
        yield from self._left_behind
        self._left_behind = []

    def finish(self) -> MachineUse:
        self._finished = True
        for sampler in self._samplers:
            if not sampler.stop(STOP_SECONDS):
                end = "its thread is left behind, and later samples are missing"
                self._left_behind.append(_unanswered(sampler, end))
            self._take(sampler, until=math.inf)
        num_gpus = len(self._bus_ids) or len(self._gpus_seen)
        return MachineUse(num_gpus=num_gpus, joules=self._energy.joules(num_gpus))

    def _open_gpus(self, tell: Tell) -> AbstractContextManager[Read]:
        # Imported on the sampler's thread: no run waits for it, and one without GPUs needs it not.
        from harness.observe.gpu import gpus

        return gpus(tell, bus_ids=self._bus_ids, environment=self._environment)

    def _take(self, sampler: Sampler, *, until: float) -> Sequence[Sample]:
        samples = sampler.take(until)
        if sampler is self._gpus:
            for sample in samples:
                self._energy.add_sample(sample)
                self._gpus_seen |= {tag.split("/")[1] for tag in sample.values}
        return samples


def _unanswered(sampler: Sampler, end: str) -> Message:
    return Message(
        kind="warning",
        text=f"telemetry of the {sampler.name} has had no answer for "
        f"{sampler.silent_seconds:.0f} s; {end}",
    )


def spreads(samples: Iterable[Sample], start: float, end: float) -> dict[str, Spread]:
    """Each quantity in the window (start, end], by the samples that were taken in it.

    Its mean is over the window's time, each moment with the value of the nearest sample: on a busy
    machine samples come late, and a plain mean would give the stretches between them no weight.
    """
    taken: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        if start < sample.seconds <= end:
            for tag, value in sample.values.items():
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
    """The energy used within windows, from counters that were read at other times.

    Between two readings a counter is taken to rise evenly.
    """

    def __init__(self) -> None:
        self._start = self._end = 0.0  # of the last window
        self._seconds_before = 0.0  # in the windows before it
        # By tag: time, counter and the windows' seconds at the last reading; then sums.
        self._last: dict[str, tuple[float, float, float]] = {}
        self._joules: dict[str, float] = {}
        self._covered_seconds: dict[str, float] = {}

    def add_window(self, start: float, end: float) -> None:
        """Adds a window's time, in seconds. Windows come in order, each before its samples."""
        self._seconds_before += self._end - self._start
        self._start, self._end = start, end

    def add_sample(self, sample: Sample) -> None:
        """Adds a reading, whose values `.../energy_joules` are counters. Readings come in order,
        none earlier than the end of the window before the last."""
        window_seconds = self._window_seconds_until(sample.seconds)
        for tag, joules in sample.values.items():
            if not tag.endswith("/energy_joules"):
                continue
            if tag in self._last:
                self._add(tag, sample.seconds, joules, window_seconds)
            self._last[tag] = (sample.seconds, joules, window_seconds)

    def joules(self, num_gpus: int) -> float | None:
        """Of all GPUs in all windows.

        None without windows, or when the counters of one of the GPUs cover less than nine tenths
        of their time. What is not covered is extrapolated.
        """
        train_seconds = self._window_seconds_until(math.inf)
        covered = list(self._covered_seconds.values())
        if train_seconds == 0 or len(covered) < max(1, num_gpus):
            return None
        if min(covered) < _COVERED_SHARE * train_seconds:
            return None
        return sum(
            joules * train_seconds / self._covered_seconds[tag]
            for tag, joules in self._joules.items()
        )

    def _window_seconds_until(self, now: float) -> float:
        return self._seconds_before + max(0.0, min(now, self._end) - self._start)

    def _add(self, tag: str, now: float, joules: float, window_seconds: float) -> None:
        since, before, window_seconds_before = self._last[tag]
        inside = window_seconds - window_seconds_before
        share = inside / (now - since)
        self._covered_seconds[tag] = self._covered_seconds.get(tag, 0.0) + inside
        self._joules[tag] = self._joules.get(tag, 0.0) + share * (joules - before)
