"""A background thread that reads a source at a steady rate and never blocks its owner."""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from harness.records import Message

_MAX_PENDING = 100_000
"""Samples that nobody has taken yet: more than 15 minutes at the highest rate."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The values of one reading."""

    seconds: float
    """When it was complete, by the sampler's clock."""
    values: Mapping[str, float]
    """By TensorBoard tag."""


Tell = Callable[[Message], None]
Read = Callable[[], Mapping[str, float] | None]
"""Returns values by tag, or None when there will be no more."""
Source = Callable[[Tell], AbstractContextManager[Read]]
"""Opens what is sampled, on the sampler's thread."""


class Sampler:
    """Samples a source until it is stopped, or the source ends or fails.

    Readings start `1 / hz` seconds apart; those that a slow reading or a busy machine missed are
    skipped. A source that never returns, such as a driver that hangs, leaves its thread behind: a
    daemon, which does not keep the process alive.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        *,
        hz: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`name`: of what is sampled, for messages; `clock`: seconds, for the samples' times."""
        self.name = name
        self._source = source
        self._interval_seconds = 1 / hz
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque(maxlen=_MAX_PENDING)
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._called_at: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"telemetry: {name}", daemon=True)

    def start(self) -> None:
        """Starts sampling; returns at once."""
        self._called_at = self._clock()
        self._thread.start()

    def take(self, until: float) -> Sequence[Sample]:
        """Removes and returns the samples up to a time, in order."""
        taken = []
        with self._lock:
            while self._samples and self._samples[0].seconds <= until:
                taken.append(self._samples.popleft())
        return taken

    def messages(self) -> Iterator[Message]:
        """Removes and returns the source's messages."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._messages.get_nowait()

    @property
    def silent_seconds(self) -> float:
        """How long the current call of the source has taken; 0 between calls."""
        called_at = self._called_at
        return 0.0 if called_at is None else self._clock() - called_at

    def stop(self, timeout_seconds: float) -> bool:
        """Takes a last sample and ends; returns False if the source did not return in time."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with self._source(self._messages.put) as read:
                due = self._clock()
                while self._sample(read) and not self._stop.is_set():
                    self._called_at = None
                    now = self._clock()
                    due += self._interval_seconds * max(
                        1, -(-(now - due) // self._interval_seconds)
                    )
                    self._stop.wait(max(0.0, due - now))
                    self._called_at = self._clock()
        except Exception as error:
            text = f"telemetry of the {self.name} failed, training continues: {error!r}"
            self._messages.put(Message(kind="warning", text=text))
            raise  # the traceback goes to standard error
        finally:
            self._called_at = None

    def _sample(self, read: Read) -> bool:
        values = read()
        if values is None:
            return False
        # The time is taken with the lock held: no later sample has an earlier time, and none
        # appears in a window whose samples were taken already.
        with self._lock:
            self._samples.append(Sample(seconds=self._clock(), values=values))
        return True
