"""A background thread that does tasks in order, and observers that are called on it."""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from harness.records import (
    Compilation,
    Epoch,
    Inspection,
    Message,
    Observer,
    RunStart,
    Summary,
    Window,
)

_MAX_WAITING = 16
"""Tasks. When more are waiting, whoever adds one waits too, so that no output lags far behind."""
_LEFT_BEHIND_SECONDS = 1.0

Task = Callable[[], None]


class Background:
    """Does one task after another on a thread of its own, which starts with the first task.

    After a task has raised, the remaining ones are skipped, and the next call here raises the same.

    As a context, it finishes the waiting tasks before it ends. After a KeyboardInterrupt it drops
    them, and leaves a running task behind after one more second.
    """

    def __init__(self) -> None:
        self._tasks: queue.Queue[tuple[Task, threading.Event] | None] = queue.Queue(_MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._is_over = False
        self._has_ended = False

    def do(self, task: Task) -> threading.Event:
        """Adds a task; blocks only while many are waiting.

        Returns:
            An event that is set when the task is done or dropped.

        Raises:
            BaseException: what an earlier task raised.
            RuntimeError: when the context has ended, and the thread with it.
        """
        self._raise()
        if self._has_ended:
            raise RuntimeError("the background thread has ended and takes no more tasks")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="background", daemon=True)
            self._thread.start()
        done = threading.Event()
        self._tasks.put((task, done))
        return done

    def wait(self) -> None:
        """Waits until all tasks are done.

        Raises:
            BaseException: what a task raised.
        """
        self._tasks.join()
        self._raise()

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._has_ended = True
        if self._thread is None:
            return
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._is_over = True
            with contextlib.suppress(queue.Full):
                self._tasks.put(None, timeout=_LEFT_BEHIND_SECONDS)
                self._thread.join(_LEFT_BEHIND_SECONDS)
            return
        self._tasks.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        while (given := self._tasks.get()) is not None:
            task, done = given
            if not self._is_over:
                try:
                    task()
                except BaseException as error:  # noqa: BLE001 - the training thread raises it again
                    self._is_over = True
                    self._error = error
            done.set()
            self._tasks.task_done()


class BackgroundObserver(Observer):
    """Passes records on to other observers, in order, on the thread of `background`, so that the
    device gets its next work meanwhile.

    An exception of theirs ends the run at the next record. `on_start` and `on_end` are passed on at
    once, on the caller's thread.
    """

    def __init__(self, observers: Sequence[Observer], background: Background) -> None:
        """Args:
        observers: receive the records.
        background: its context ends before this is closed.
        """
        self._observers = observers
        self._background = background

    def on_start(self, run: RunStart) -> None:
        """At once, so that what cannot work fails before anything is trained."""
        for observer in self._observers:
            observer.on_start(run)

    def on_compilation(self, compilation: Compilation) -> None:
        """In the background."""
        self._tell(lambda observer: observer.on_compilation(compilation))

    def on_window(self, window: Window) -> None:
        """In the background."""
        self._tell(lambda observer: observer.on_window(window))

    def on_epoch(self, epoch: Epoch) -> None:
        """In the background."""
        self._tell(lambda observer: observer.on_epoch(epoch))

    def on_inspection(self, inspection: Inspection) -> None:
        """In the background."""
        self._tell(lambda observer: observer.on_inspection(inspection))

    def on_message(self, message: Message) -> None:
        """In the background."""
        self._tell(lambda observer: observer.on_message(message))

    def on_end(self, summary: Summary) -> None:
        """At once, after all other records."""
        self._background.wait()
        for observer in self._observers:
            observer.on_end(summary)

    def close(self) -> None:
        """Closes the others, also after a failure."""
        with contextlib.ExitStack() as closing:
            for observer in self._observers:
                closing.callback(observer.close)

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        def tell_all() -> None:
            for observer in self._observers:
                tell(observer)

        self._background.do(tell_all)
