"""Telemetry of a run: GPUs and host, sampled in the background and joined with windows by time."""

import contextlib
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

import numpy as np

from harness.run.history import Telemetry
from harness.run.observers.gpu import COUNTERS, gpus
from harness.run.observers.host import host_reader
from harness.run.observers.sampler import Read, Sample, Sampler, Tell
from harness.run.records import MachineUse, Message, Spread

_COVERED_SHARE = 0.9


class MachineTelemetry(Telemetry):
    """Samples GPUs and host until `finish`, or until its context ends.

    A sample belongs to the window during which it was completed; samples between windows (during
    compilation, evaluation, saving) belong to none. Only the sampler's thread calls NVML.
    """

    def __init__(self, *, hz: float, bus_ids: Sequence[str]) -> None:
        """Args:
        hz: samples per second; 0 for none.
        bus_ids: PCI addresses of the GPUs that the run trains on; empty on CPU.
        """
        self._bus_ids = bus_ids
        self._energy = EnergyMeter()
        self._gpus_seen: set[str] = set()
        self._sampler = Sampler(functools.partial(_machine, bus_ids=bus_ids), hz=hz)

    def __enter__(self) -> Self:
        """Starts sampling, so that NVML is open before the first program is compiled."""
        self._sampler.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._sampler.stop()

    def window(self, start: float, end: float) -> Mapping[str, Spread]:
        self._energy.add_window(start, end)
        return spreads(self._take(until=end), start, end)

    def messages(self) -> Iterable[Message]:
        return self._sampler.messages()

    def finish(self) -> MachineUse:
        self._sampler.stop()
        self._take(until=math.inf)
        num_gpus = len(self._bus_ids) or len(self._gpus_seen)
        return MachineUse(num_gpus=num_gpus, joules=self._energy.joules(num_gpus))

    def _take(self, *, until: float) -> Sequence[Sample]:
        samples = self._sampler.take(until)
        for sample in samples:
            self._energy.add_sample(sample)
            self._gpus_seen |= {tag.split("/")[1] for tag in sample.values if tag[:4] == "gpu/"}
        return samples


@contextlib.contextmanager
def _machine(tell: Tell, *, bus_ids: Sequence[str]) -> Iterator[Read]:
    """Opens the source of all samples."""
    read_host = host_reader()
    with gpus(tell, bus_ids=bus_ids) as read_gpus:
        yield lambda: {**read_gpus(), **read_host()}


def spreads(samples: Iterable[Sample], start: float, end: float) -> dict[str, Spread]:
    """Returns the spread of each tag over the samples taken in the window (start, end].

    The mean is over the window's time, each moment with the value of the nearest sample: on a busy
    machine samples come late, and a plain mean would give the stretches between them no weight.
    """
    taken: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        if start < sample.seconds <= end:
            for tag, value in sample.values.items():
                taken.setdefault(tag, []).append((sample.seconds, value))
    found: dict[str, Spread] = {}
    for tag, readings in taken.items():
        values = [value for _, value in readings]
        middles = [(one + other) / 2 for (one, _), (other, _) in itertools.pairwise(readings)]
        mean = float(np.average(values, weights=np.diff([start, *middles, end])))
        found[tag] = Spread(
            mean=min(max(mean, min(values)), max(values)),  # the mean may be off by rounding
            min=min(values),
            max=max(values),
            num_samples=len(values),
            is_counter=tag.rpartition("/")[2] in COUNTERS,
        )
    return found


class EnergyMeter:
    """Measures the energy used within windows, by counters that are read at other times.

    It assumes that a counter rises evenly between two readings.
    """

    def __init__(self) -> None:
        self._start = self._end = 0.0  # of the last window
        self._seconds_before = 0.0  # in the windows before it
        # By tag: time, counter and the windows' seconds at the last reading.
        self._last: dict[str, tuple[float, float, float]] = {}
        # By tag: joules used, and seconds passed, within windows and between readings.
        self._within: dict[str, tuple[float, float]] = {}

    def add_window(self, start: float, end: float) -> None:
        """Adds a window's time, in seconds. Windows come in order, each before its samples."""
        self._seconds_before += self._end - self._start
        self._start, self._end = start, end

    def add_sample(self, sample: Sample) -> None:
        """Adds a reading, whose values `.../energy_joules` are counters. Readings come in order,
        none earlier than the end of the window before the last."""
        window_seconds = self._window_seconds_until(sample.seconds)
        for tag, counter in sample.values.items():
            if not tag.endswith("/energy_joules"):
                continue
            if tag in self._last:
                seconds, counter_before, window_seconds_before = self._last[tag]
                watts = (counter - counter_before) / (sample.seconds - seconds)
                inside = window_seconds - window_seconds_before
                joules, covered = self._within.get(tag, (0.0, 0.0))
                self._within[tag] = (joules + watts * inside, covered + inside)
            self._last[tag] = (sample.seconds, counter, window_seconds)

    def joules(self, num_gpus: int) -> float | None:
        """Returns the energy of all GPUs in all windows.

        It is None without windows, or when the readings of a GPU's counter cover less than nine
        tenths of their time. The rest of the time is extrapolated.
        """
        train_seconds = self._window_seconds_until(math.inf)
        within = self._within.values()
        if train_seconds == 0 or len(within) < max(1, num_gpus):
            return None
        if min(covered for _, covered in within) < _COVERED_SHARE * train_seconds:
            return None
        return sum(joules * train_seconds / covered for joules, covered in within)

    def _window_seconds_until(self, now: float) -> float:
        return self._seconds_before + max(0.0, min(now, self._end) - self._start)
