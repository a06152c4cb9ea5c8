"""Ctrl-C as a wish to stop: the dispatch at hand ends, and what was trained is saved. A terminal
that is closed is none."""

import signal
import threading
from types import FrameType

EXIT_INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended: 128 + SIGINT."""


class Interrupt:
    """A context in which the first SIGINT only sets `requested`; a second interrupts at once, but
    for a second in which a file that is being written may be finished. SIGHUP, which a terminal
    sends when it is closed, is ignored, unless the program handles it. Outside of the main thread
    the context does nothing."""

    def __init__(self) -> None:
        self.requested = False
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Interrupt":
        if self._is_main:
            self._before = signal.signal(signal.SIGINT, self._handle)
            self._hangup = signal.getsignal(signal.SIGHUP)
            if self._hangup is signal.SIG_DFL:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_main:
            signal.signal(signal.SIGINT, self._before)
            if self._hangup is signal.SIG_DFL:
                signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
