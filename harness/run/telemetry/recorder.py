"""Telemetry of a run: a background thread samples GPUs and host, and windows take the samples."""

import contextlib
import functools
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Self

import psutil

from harness.run.records import Message, Spread
from harness.run.telemetry.nvml import Read, Tell, opened_gpus

STOP_SECONDS = 3.0  # how long the end of a run waits for a reading that is under way
_POWER = "/power_watts"

Source = Callable[[Tell], AbstractContextManager[Read]]  # opens what is sampled
# The time of a reading's completion, by `time.perf_counter`, and its values by name.
Sample = tuple[float, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class TelemetryTotals:
    """What was sampled during the windows of a training."""

    num_gpus: int = 0  # the GPUs that were used
    joules: float | None = None  # their energy; None if unknown
    spreads: Mapping[str, Spread] = field(default_factory=dict)  # by name

    @property
    def gpus(self) -> list[dict[str, float]]:
        """For each GPU its mean utilization in percent, its mean power in watts and its peak memory
        in bytes, by name, as far as it reports them."""
        shown = {
            "utilization_percent": ("utilization_percent", "mean"),
            "power_watts": ("power_watts", "mean"),
            "memory_peak_bytes": ("memory_used_bytes", "max"),
        }
        return [
            {
                name: getattr(self.spreads[f"gpu/{gpu}/{metric}"], which)
                for name, (metric, which) in shown.items()
                if f"gpu/{gpu}/{metric}" in self.spreads
            }
            for gpu in range(self.num_gpus)
        ]


class TelemetryRecorder:
    """Samples GPUs and host until `finish`, or until its context ends. A sample belongs to the
    window during which it was completed; samples between windows (during compilation, evaluation,
    saving) belong to none. Only the background thread calls NVML, so no driver delays training."""

    def __init__(
        self,
        *,
        hz: float,
        bus_ids: Sequence[str],
        source: Source | None = None,
        lasting: bool = False,
    ) -> None:
        """Samples `source`, or this machine and the GPUs at `bus_ids`, `hz` times per second.
        `lasting`, it serves several trainings, and only its context ends it."""
        self._hz = hz
        self._lasting = lasting
        self._bus_ids = bus_ids
        self._source = source or functools.partial(_machine, bus_ids=bus_ids)
        self._samples: deque[Sample] = deque()
        self._messages: deque[Message] = deque()
        self._stopping = threading.Event()
        # A daemon: a driver that never answers must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._last: dict[str, float] = {}  # the last value of each tag
        self._spreads: dict[str, Spread] = {}  # over all windows
        self._joules = self._metered_seconds = self._train_seconds = 0.0

    def __enter__(self) -> Self:
        """Starts sampling, so that NVML is open before the first program is compiled."""
        if self._hz > 0:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def window(self, start: float, end: float) -> Mapping[str, Spread]:
        """Returns the samples between two times of `time.perf_counter`. Windows come in order."""
        values: defaultdict[str, list[float]] = defaultdict(list)
        while self._samples and self._samples[0][0] <= end:
            seconds, found = self._samples.popleft()
            self._last |= found
            for tag, value in found.items() if start < seconds else ():
                values[tag].append(value)
        # Most windows are shorter than the time between two samples: power is what it was last.
        means = {tag: statistics.fmean(v) for tag, v in values.items()}
        power = {tag: means.get(tag, v) for tag, v in self._last.items() if tag.endswith(_POWER)}
        self._train_seconds += end - start
        if power:
            self._joules += sum(power.values()) * (end - start)
            self._metered_seconds += end - start
        spreads = {
            tag: Spread(mean=means[tag], min=min(v), max=max(v), num_samples=len(v))
            for tag, v in values.items()
        }
        for tag, spread in spreads.items():
            before = self._spreads.get(tag)
            self._spreads[tag] = spread if before is None else before.joined(spread)
        return spreads

    def messages(self) -> Iterator[Message]:
        while self._messages:
            yield self._messages.popleft()

    def finish(self) -> TelemetryTotals:
        """Stops sampling after the last window, unless it is `lasting`; returns the totals."""
        if not self._lasting:
            self._stop()
        while self._samples:
            self._last |= self._samples.popleft()[1]
        num_gpus, joules = len(self._bus_ids), None
        num_metered = sum(tag.endswith(_POWER) for tag in self._last)
        if self._metered_seconds and num_metered >= num_gpus:
            joules = self._joules * self._train_seconds / self._metered_seconds
        return TelemetryTotals(num_gpus=num_gpus, joules=joules, spreads=dict(self._spreads))

    def _stop(self) -> None:
        """Takes a last sample and ends; leaves the thread behind if its reading does not end."""
        if self._stopping.is_set() or self._thread.ident is None:
            return
        self._stopping.set()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            text = f"telemetry has had no answer for {STOP_SECONDS:g} s"
            self._tell("warning", f"{text}; the run ends without its last samples")

    def _tell(self, kind: Literal["note", "warning"], text: str) -> None:
        self._messages.append(Message(kind=kind, text=text))

    def _run(self) -> None:
        try:
            with self._source(self._tell) as read:
                while True:
                    began = time.perf_counter()
                    values = read()
                    now = time.perf_counter()
                    self._samples.append((now, values))
                    if self._stopping.is_set():
                        break
                    self._stopping.wait(max(0.0, began + 1 / self._hz - now))
        except Exception as error:
            self._tell("warning", f"telemetry failed, training continues: {error!r}")
            raise  # the traceback goes to standard error


@contextlib.contextmanager
def _machine(tell: Tell, *, bus_ids: Sequence[str]) -> Iterator[Read]:
    """Opens everything that is sampled. Add other sources here."""
    process = psutil.Process()
    psutil.cpu_percent()  # the next call reports the time since this one
    with opened_gpus(tell, bus_ids=bus_ids) as read_gpus:
        yield lambda: {
            **read_gpus(),
            "host/rss_bytes": float(process.memory_info().rss),
            "host/cpu_percent": psutil.cpu_percent(),
        }
