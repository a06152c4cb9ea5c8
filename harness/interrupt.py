"""Ctrl-C as a wish to stop: the dispatch at hand ends, and what was trained is saved."""

import signal
import threading
from types import FrameType

EXIT_INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended: 128 + SIGINT."""


class Interrupt:
    """A context in which the first SIGINT only sets `requested`; a second interrupts at once, but
    for a second in which a file that is being written may be finished. Outside of the main thread
    it does nothing."""

    def __init__(self) -> None:
        self.requested = False
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Interrupt":
        if self._is_main:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_main:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
