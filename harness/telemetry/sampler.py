"""A background thread that samples at a steady rate, and never holds up who started it."""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

_MAX_PENDING = 100_000
"""Samples that wait to be taken: more than an hour's at the highest rate."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Figures of one reading."""

    seconds: float
    """When it was complete, by the sampler's clock."""
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Message:
    """Something that the run's user should read."""

    kind: Literal["note", "warning"]
    text: str


Tell = Callable[[Message], None]
Read = Callable[[], Mapping[str, float] | None]
"""Gives figures by name, or None when there will be nothing more."""
Source = Callable[[Tell], AbstractContextManager[Read]]
"""Opens what is sampled. Both are called on the sampler's thread alone."""


class Sampler:
    """Reads a source `hz` times a second, until it is stopped or the source ends.

    A reading that takes longer than its turn skips the turns that it missed. Where one never
    returns, as when a driver hangs, the thread is left behind: it does not keep a process alive.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        *,
        hz: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`name`: of what is sampled; `clock`: seconds, the one that the samples shall bear."""
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
        """The samples up to a time that were not taken yet, in order."""
        taken = []
        with self._lock:
            while self._samples and self._samples[0].seconds <= until:
                taken.append(self._samples.popleft())
        return taken

    def messages(self) -> Iterator[Message]:
        """What the source has told and nobody read yet."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._messages.get_nowait()

    @property
    def silent_seconds(self) -> float:
        """For how long the source has not returned from a call; 0 between calls."""
        called_at = self._called_at
        return 0.0 if called_at is None else self._clock() - called_at

    def stop(self, timeout_seconds: float) -> bool:
        """Takes a last sample and ends; False when the source did not return within the timeout."""
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
            text = f"telemetry of the {self.name} ended, training goes on. It failed: {error!r}"
            self._messages.put(Message(kind="warning", text=text))
            raise  # the traceback goes to standard error
        finally:
            self._called_at = None

    def _sample(self, read: Read) -> bool:
        figures = read()
        if figures is None:
            return False
        # The time is taken with the lock held: no later sample bears an earlier time, and none
        # appears within a window that was taken already.
        with self._lock:
            self._samples.append(Sample(seconds=self._clock(), figures=figures))
        return True
