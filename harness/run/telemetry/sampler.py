"""A background thread that reads a source at a steady rate and never blocks its owner."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

from harness.run.records import Message

STOP_SECONDS = 3.0
"""How long the end of a run waits for a reading that is under way."""


class Sample(NamedTuple):
    """The values of one reading, by TensorBoard tag."""

    seconds: float
    """The time of its completion, by `time.perf_counter`, which is also the loop's clock."""
    values: Mapping[str, float]


Tell = Callable[[Literal["note", "warning"], str], None]
"""A function that receives a message for the run's user."""
Read = Callable[[], Mapping[str, float]]
"""A function that returns values by tag."""
TelemetrySource = Callable[[Tell], AbstractContextManager[Read]]
"""A function that opens what is sampled. It is called on the sampler's thread."""


class Sampler:
    """Samples a source until it is stopped or the source fails.

    Readings start `1 / hz` seconds apart, or later where one takes longer.
    """

    def __init__(self, source: TelemetrySource, *, hz: float) -> None:
        """`hz` is the number of readings per second; 0 for none."""
        self._source = source
        self._hz = hz
        self._samples: deque[Sample] = deque()
        self._messages: deque[Message] = deque()
        self._stop = threading.Event()
        # A daemon: a driver that never answers must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def start(self) -> None:
        if self._hz > 0:
            self._thread.start()

    def take(self, until: float) -> Sequence[Sample]:
        """Removes and returns the samples up to a time, in order."""
        taken = []
        while self._samples and self._samples[0].seconds <= until:
            taken.append(self._samples.popleft())
        return taken

    def messages(self) -> Iterator[Message]:
        """Removes and yields the messages so far."""
        while self._messages:
            yield self._messages.popleft()

    def stop(self) -> None:
        """Takes a last sample and ends; leaves the thread behind if its reading does not end."""
        if self._stop.is_set() or self._thread.ident is None:
            return
        self._stop.set()
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
                    self._samples.append(Sample(seconds=now, values=values))
                    if self._stop.is_set():
                        break
                    self._stop.wait(max(0.0, began + 1 / self._hz - now))
        except Exception as error:
            self._tell("warning", f"telemetry failed, training continues: {error!r}")
            raise  # the traceback goes to standard error
