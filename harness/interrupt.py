"""Signals as a wish to stop: the dispatch at hand ends, and what was trained is saved.

Ctrl-C (SIGINT) ends what the user began; SIGTERM and SIGUSR1 announce that the machine is taken
away, or that a time limit is near. A terminal that is closed (SIGHUP) is no reason to stop.
"""

import signal
import threading
from types import FrameType
from typing import Any

EXIT_INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended: 128 + SIGINT."""
EXIT_TERMINATED = 143
"""Likewise 128 + SIGTERM; after SIGUSR1 too, which schedulers send some time before."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Terminated(SystemExit):
    """SIGTERM or SIGUSR1 ended a training, after everything was saved: the program is to end.

    Where nothing catches it, the process ends with exit code 143.
    """

    def __init__(self) -> None:
        super().__init__(EXIT_TERMINATED)


class TerminatedAtOnce(KeyboardInterrupt):
    """The second SIGTERM: nothing more is saved."""


class Interrupt:
    """A context in which the first SIGINT, SIGTERM or SIGUSR1 only sets `requested`.

    A second SIGINT or SIGTERM interrupts at once, but for a second in which a file that is being
    written may be finished; a second SIGUSR1 changes nothing. SIGHUP, which a terminal sends when
    it is closed, is ignored. Signals other than SIGINT that the program handles or ignores itself
    are left to it. Outside of the main thread the context does nothing.
    """

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        """The first of the signals; None before."""
        self._is_first = True
        self._is_main = threading.current_thread() is threading.main_thread()

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.by is not None

    @property
    def is_termination(self) -> bool:
        """Whether the process is to end, and not only what it does."""
        return self.by in (signal.SIGTERM, signal.SIGUSR1)

    @property
    def exit_code(self) -> int:
        """Of a program that ends because of it."""
        return EXIT_TERMINATED if self.is_termination else EXIT_INTERRUPTED

    def told(self, number: int) -> bool:
        """Takes over the signal that another worker was told by, 0 for none; returns `requested`.
        Of two, the one that ends the process counts."""
        if number and not self.is_termination:
            self.by = signal.Signals(number)
        return self.requested

    def __enter__(self) -> "Interrupt":
        self._before: dict[signal.Signals, Any] = {}
        for kind in _SIGNALS if self._is_main else ():
            before = signal.getsignal(kind)
            if kind is signal.SIGINT or before is signal.SIG_DFL:
                handler = signal.SIG_IGN if kind is signal.SIGHUP else self._handle
                self._before[kind] = signal.signal(kind, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for kind, before in self._before.items():
            signal.signal(kind, before)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # Another worker may have been told before; the first of its own signals is no second one.
        first, self._is_first = self._is_first, False
        if first:
            self.told(number)
        elif number == signal.SIGTERM:
            raise TerminatedAtOnce
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
