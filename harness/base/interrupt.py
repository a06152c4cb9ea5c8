"""Signals as requests to stop: the current dispatch ends, and what was trained is saved. Ctrl-C
(SIGINT) ends what the user began. SIGTERM and SIGUSR1 announce that the machine is taken away, or
that a time limit is near. A closed terminal (SIGHUP) is no reason to stop."""

import contextlib
import faulthandler
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
EXIT_TERMINATED = 143  # 128 + SIGTERM; also after SIGUSR1, which schedulers send before
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# Signals of a thread's own errors, which the thread has to handle itself.
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
_PATIENCE_SECONDS = 2.0  # for the main thread to leave C++ code and handle a signal


def use_signal_stack() -> None:
    """Gives the main thread a stack for signal handlers, unless it has one. oneDNN, which
    multiplies matrices for TensorFlow on a CPU, uses the stack pointer for a buffer on the heap
    (uxlfoundation/oneDNN issue 4845). A handler that runs on the usual stack at that moment
    overwrites the memory below the buffer. Python's handlers use this stack if there is one."""
    if threading.current_thread() is threading.main_thread() and not faulthandler.is_enabled():
        # It makes such a stack, which stays.
        faulthandler.enable(file=2)
        faulthandler.disable()


@contextlib.contextmanager
def threads_without_signals() -> Iterator[None]:
    """Makes threads that start inside, and all their later threads, leave signals to others: they
    have no signal stack, so TensorFlow's would be exposed to the fault that `use_signal_stack`
    describes. A signal that comes inside is delivered at the end, so the block should be short."""
    use_signal_stack()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Terminated(SystemExit):
    """SIGTERM or SIGUSR1 ended a training, all is saved, and the program is to end."""

    def __init__(self) -> None:
        super().__init__(EXIT_TERMINATED)


class TerminatedAtOnce(KeyboardInterrupt):
    """A second SIGTERM came: nothing more is saved."""


class Interrupt:
    """A context in which the first SIGINT, SIGTERM or SIGUSR1 only sets `requested`.

    A second SIGINT or SIGTERM interrupts at once, apart from up to a second to finish a file that
    is being written, also while C++ code runs that keeps Python from handling it, such as a
    compilation; a second SIGUSR1 changes nothing. SIGHUP, which a terminal sends when it is
    closed, is ignored. Signals other than SIGINT that the program handles or ignores itself stay
    with it. Outside the main thread, the context does nothing.
    """

    def __init__(self) -> None:
        self.by: signal.Signals | None = None  # the first of the signals; None before
        self.nothing_to_save = False  # if so, the first signal ends the process
        self._is_first = True
        self._order: type[KeyboardInterrupt] | None = None  # what the second signal raised
        self._is_main = threading.current_thread() is threading.main_thread()
        self._is_left = threading.Event()

    @property
    def requested(self) -> bool:
        return self.by is not None

    @property
    def is_termination(self) -> bool:
        """Whether the process itself is to end, not only its current work."""
        return self.by in (signal.SIGTERM, signal.SIGUSR1)

    @property
    def exit_code(self) -> int:
        return EXIT_TERMINATED if self.is_termination else EXIT_INTERRUPTED

    def told(self, number: int) -> bool:
        """Takes over the signal that another worker got, 0 for none; returns `requested`. Of two
        signals, the one that ends the process counts. From now on there is something to save."""
        self.nothing_to_save = False
        return self._take(number)

    def _take(self, number: int) -> bool:
        if number and not self.is_termination:
            self.by = signal.Signals(number)
        return self.requested

    def __enter__(self) -> "Interrupt":
        use_signal_stack()
        self._before: dict[signal.Signals, Any] = {}
        for kind in _SIGNALS if self._is_main else ():
            before = signal.getsignal(kind)
            # Python's own SIGINT handler raises in the middle of a dispatch.
            if kind is signal.SIGINT or before is signal.SIG_DFL:
                handler = signal.SIG_IGN if kind is signal.SIGHUP else self._handle
                self._before[kind] = signal.signal(kind, handler)
        if self._is_main:
            reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._fd_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=[reader], daemon=True).start()
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        for kind, before in self._before.items():
            signal.signal(kind, before)
        self._is_left.set()
        if self._is_main:
            signal.set_wakeup_fd(self._fd_before)
            os.close(self._writer)  # ends the thread
        # C++ code that was handling an error itself raises another one in the order's place.
        if self._order and isinstance(error, Exception):
            raise self._order from error

    def _watch(self, reader: int) -> None:
        """Ends the process where the main thread does not get to handle a signal."""
        received: list[int] = []
        while numbers := os.read(reader, 64):
            received += [n for n in numbers if n in self._before]
            if self._fd_before >= 0:  # a loop of asyncio handles signals that it reads there
                with contextlib.suppress(OSError):
                    os.write(self._fd_before, bytes(n for n in numbers if n not in self._before))
            is_order = any(n in (signal.SIGINT, signal.SIGTERM) for n in received[1:])
            if not received or not (is_order or self.nothing_to_save):
                continue
            if not self._is_left.wait(_PATIENCE_SECONDS) and (is_order or self.nothing_to_save):
                with contextlib.suppress(OSError):
                    os.write(2, b"interrupted\n")
                by_user = received[-1] == signal.SIGINT
                os._exit(EXIT_INTERRUPTED if by_user else EXIT_TERMINATED)
        os.close(reader)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # Another worker may have got a signal before; the first one here still counts as the first.
        first, self._is_first = self._is_first, False
        if first:
            self._take(number)
        elif number in (signal.SIGINT, signal.SIGTERM):
            self._is_left.set()
            self._order = TerminatedAtOnce if number == signal.SIGTERM else KeyboardInterrupt
            raise self._order
