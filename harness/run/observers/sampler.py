"""A background thread that reads a source at a steady rate and never blocks its owner."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from harness.run.records import Message

STOP_SECONDS = 3.0
"""How long the end of a run waits for a sampler that is in a call."""
SILENT_SECONDS = 15.0
"""How long a call may take unreported; NVML may take many seconds to open on large machines."""
_MAX_PENDING = 100_000
"""Limit of the samples that nobody has taken yet: over 15 minutes of them at the highest rate."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The values of one reading."""

    seconds: float
    """The time of its completion, by `time.perf_counter`, which is also the loop's clock."""
    values: Mapping[str, float]
    """The values by TensorBoard tag."""


Tell = Callable[[Literal["note", "warning"], str], None]
"""A function that receives a message for the run's user."""
Read = Callable[[], Mapping[str, float]]
"""A function that returns values by tag."""
Source = Callable[[Tell], AbstractContextManager[Read]]
"""A function that opens, on the sampler's thread, what is sampled."""


class Sampler:
    """Samples a source until it is stopped or the source fails.

    Readings start `1 / hz` seconds apart, or later where one takes longer. A source that never
    returns, such as a driver that hangs, leaves its thread behind: a daemon, which does not keep
    the process alive.
    """

    def __init__(self, source: Source, *, hz: float) -> None:
        """`hz` is the number of readings per second; 0 for none."""
        self._source = source
        self._hz = hz
        self._samples: deque[Sample] = deque(maxlen=_MAX_PENDING)
        self._messages: deque[Message] = deque()
        self._called_at = math.inf  # start of the call of the source under way
        self._is_silent = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def start(self) -> None:
        """Starts sampling; returns at once."""
        if self._hz > 0:
            self._called_at = time.perf_counter()
            self._thread.start()

    def take(self, until: float) -> Sequence[Sample]:
        """Removes and returns the samples up to a time, in order."""
        taken = []
        while self._samples and self._samples[0].seconds <= until:
            taken.append(self._samples.popleft())
        return taken

    def messages(self) -> Iterator[Message]:
        """Removes and yields the source's messages, and once a message about a call that hangs."""
        if not self._is_silent and time.perf_counter() - self._called_at > SILENT_SECONDS:
            self._report_silence("training continues without it")
        while self._messages:
            yield self._messages.popleft()

    def stop(self) -> None:
        """Takes a last sample and ends; gives up a source that does not return in time."""
        if self._stop.is_set() or self._thread.ident is None:
            return
        self._stop.set()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            self._report_silence("its thread is left behind, and later samples are missing")

    def _tell(self, kind: Literal["note", "warning"], text: str) -> None:
        self._messages.append(Message(kind=kind, text=text))

    def _report_silence(self, end: str) -> None:
        self._is_silent = True
        silent_seconds = max(0.0, time.perf_counter() - self._called_at)
        self._tell("warning", f"telemetry has had no answer for {silent_seconds:.0f} s; {end}")

    def _run(self) -> None:
        try:
            with self._source(self._tell) as read:
                while True:
                    began = self._called_at = time.perf_counter()
                    values = read()
                    now = time.perf_counter()
                    self._samples.append(Sample(seconds=now, values=values))
                    self._called_at = math.inf
                    if self._stop.is_set():
                        break
                    self._stop.wait(max(0.0, began + 1 / self._hz - now))
        except Exception as error:
            self._tell("warning", f"telemetry failed, training continues: {error!r}")
            raise  # the traceback goes to standard error
        finally:
            self._called_at = math.inf
