"""A thread beside the one that trains: does what it is given, in order, and loses no failure."""

import contextlib
import queue
import threading
from collections.abc import Callable
from types import TracebackType

_MAX_WAITING = 16
"""Tasks. Who is too slow for what it is given holds up the others, so that no record is told long
after what it is about."""
_LEFT_BEHIND_SECONDS = 1.0

Task = Callable[[], None]


class Background:
    """Does one task after another, while whoever hands them over goes on.

    After a task that raised none is done any more, as if it had been called in line; what it raised
    comes out of the next call here. The thread starts with the first task.

    As a context, it does what is left before it ends. Not so after a KeyboardInterrupt, which is to
    end the process at once: what waits is dropped then, and a task that takes longer than a second
    more is left behind.
    """

    def __init__(self) -> None:
        self._tasks: queue.Queue[tuple[Task, threading.Event] | None] = queue.Queue(_MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._is_over = False

    def do(self, task: Task) -> threading.Event:
        """Hands a task over; waits only where many are waiting already.

        Returns:
            What is set when the task is done, or dropped.

        Raises:
            BaseException: what an earlier task raised.
        """
        self._raise()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="background", daemon=True)
            self._thread.start()
        done = threading.Event()
        self._tasks.put((task, done))
        return done

    def wait(self) -> None:
        """Waits until all is done.

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
                except BaseException as error:  # noqa: BLE001 - whoever trains raises it again
                    self._is_over = True
                    self._error = error
            done.set()
            self._tasks.task_done()
