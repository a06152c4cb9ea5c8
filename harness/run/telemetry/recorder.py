"""Telemetry of a run: joins the samples of GPUs and host with the windows of training."""

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

import psutil

from harness.run.records import MachineUse, Message, Spread
from harness.run.telemetry.gpu_metrics import opened_gpus
from harness.run.telemetry.sampler import Read, Sample, Sampler, Tell

_POWER = "/power_watts"
_MIN_CPU_SECONDS = 0.1
"""The shortest time to measure over: psutil calls CPU percentages over less meaningless."""


class TelemetryRecorder:
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
        self._sampler = Sampler(functools.partial(_machine, bus_ids=bus_ids), hz=hz)
        self._gpus_seen: set[str] = set()
        self._watts: dict[str, float] = {}  # each GPU's last reading, by tag
        self._joules = self._metered_seconds = self._train_seconds = 0.0

    def __enter__(self) -> Self:
        """Starts sampling, so that NVML is open before the first program is compiled."""
        self._sampler.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._sampler.stop()

    def window(self, start: float, end: float) -> Mapping[str, Spread]:
        """Returns the samples of a window, by TensorBoard tag. Windows come in order; their bounds
        are seconds by `time.perf_counter`."""
        samples = self._take(until=end)
        found = _spreads(sample for sample in samples if start < sample.seconds)
        # Most windows are shorter than the time between two samples: power is what it was last.
        means = {tag: spread.mean for tag, spread in found.items() if tag.endswith(_POWER)}
        power = self._watts | means
        self._train_seconds += end - start
        if power:
            self._joules += sum(power.values()) * (end - start)
            self._metered_seconds += end - start
        return found

    def messages(self) -> Iterable[Message]:
        return self._sampler.messages()

    def finish(self) -> MachineUse:
        """Stops sampling after the last window; returns the use of the GPUs."""
        self._sampler.stop()
        self._take(until=math.inf)
        num_gpus = len(self._bus_ids) or len(self._gpus_seen)
        if not self._metered_seconds or len(self._watts) < num_gpus:
            return MachineUse(num_gpus=num_gpus)
        joules = self._joules * self._train_seconds / self._metered_seconds
        return MachineUse(num_gpus=num_gpus, joules=joules)

    def _take(self, *, until: float) -> Sequence[Sample]:
        samples = self._sampler.take(until)
        for sample in samples:
            gpus = {tag: value for tag, value in sample.values.items() if tag.startswith("gpu/")}
            self._gpus_seen |= {tag.split("/")[1] for tag in gpus}
            self._watts |= {tag: value for tag, value in gpus.items() if tag.endswith(_POWER)}
        return samples


@contextlib.contextmanager
def _machine(tell: Tell, *, bus_ids: Sequence[str]) -> Iterator[Read]:
    """Opens everything that is sampled. Add other sources here."""
    read_host = host_reader()
    with opened_gpus(tell, bus_ids=bus_ids) as read_gpus:
        yield lambda: {**read_gpus(), **read_host()}


def host_reader() -> Read:
    """Returns a reader of `host/cpu_percent`, the use of the whole machine since the previous
    reading, from 0 to 100, and `host/rss_bytes`, the memory of this process."""
    process = psutil.Process()
    psutil.cpu_percent()  # the next call reports the time since this one
    asked_at = time.monotonic()

    def read() -> dict[str, float]:
        nonlocal asked_at
        values = {"host/rss_bytes": float(process.memory_info().rss)}
        if time.monotonic() - asked_at >= _MIN_CPU_SECONDS:
            values["host/cpu_percent"] = psutil.cpu_percent()
            asked_at = time.monotonic()
        return values

    return read


def _spreads(samples: Iterable[Sample]) -> dict[str, Spread]:
    values: dict[str, list[float]] = {}
    for sample in samples:
        for tag, value in sample.values.items():
            values.setdefault(tag, []).append(value)
    return {
        tag: Spread(mean=statistics.fmean(v), min=min(v), max=max(v), num_samples=len(v))
        for tag, v in values.items()
    }
