"""A background thread that does tasks in order, and observers that are called on it."""

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent import futures
from functools import partial

from harness.run.records import BatchesAwaited, BatchesReady, Observer, Record, RunStart, Summary

_MAX_WAITING = 16  # beyond it, adding a task blocks, so that no output lags far behind
_LEFT_BEHIND_SECONDS = 1.0

Task = Callable[[], None]


class Background(contextlib.AbstractContextManager["Background"]):
    """Does one task after another on a thread of its own. After a task has raised, it skips the
    rest, and its next call raises the same. As a context, it ends with the last task; after a
    KeyboardInterrupt it drops those that wait, and leaves a running one behind after a second."""

    def __init__(self) -> None:
        self._pool = futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="background")
        self._tasks: deque[futures.Future[None]] = deque()
        self._has_failed = False

    def do(self, task: Task) -> futures.Future[None]:
        """Adds a task; blocks only while many are waiting. Raises what an earlier task raised."""
        while self._tasks and (self._tasks[0].done() or len(self._tasks) > _MAX_WAITING):
            self._tasks.popleft().result()
        self._tasks.append(self._pool.submit(self._run, task))
        return self._tasks[-1]

    def wait(self) -> None:
        """Waits until all tasks are done. Raises what a task raised."""
        while self._tasks:
            self._tasks.popleft().result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._pool.shutdown(wait=False, cancel_futures=True)
            running = [task for task in self._tasks if not task.cancelled()]
            futures.wait(running, timeout=_LEFT_BEHIND_SECONDS)
        else:
            self._pool.shutdown()
            self.wait()

    def _run(self, task: Task) -> None:
        if not self._has_failed:
            try:
                task()
            except BaseException:
                self._has_failed = True
                raise


class BackgroundObserver(Observer):
    """Passes records on to other observers on the thread of `background`, so that the device gets
    its next work meanwhile. If one raises an exception, the run ends at the next record."""

    def __init__(self, observers: Sequence[Observer], background: Background) -> None:
        """The context of `background` must end before `close`."""
        self._observers = observers
        self._background = background

    def tell(self, record: Record) -> None:
        match record:
            case RunStart():  # at once, so that what cannot work fails before anything is trained
                self._tell_all(record, self._observers)
            case Summary():  # what the first observer writes shows that all others are done
                self._background.wait()
                self._tell_all(record, self._observers[::-1])
            case BatchesAwaited() | BatchesReady():
                pass  # what happens between them is a matter of the training thread
            case _ if self._observers:
                self._background.do(partial(self._tell_all, record, self._observers))

    def close(self) -> None:
        with contextlib.ExitStack() as closing:
            for observer in self._observers:
                closing.callback(observer.close)

    def _tell_all(self, record: Record, observers: Sequence[Observer]) -> None:
        for observer in observers:
            observer.tell(record)
