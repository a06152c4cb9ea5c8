"""A thread beside the one that trains: does what it is given, in order, and loses no failure."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_MAX_WAITING = 256
"""Tasks, so that who is too slow for what it is given holds up the others, not the memory."""


class Background:
    """Does one task after another, while whoever hands them over goes on.

    After a task that raised none is done any more, as if it had been called in line; what it raised
    comes out of the next call here. The thread starts with the first task.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def do(self, task: Callable[[], None]) -> None:
        """Hands a task over; waits only where very many are waiting already.

        Raises:
            BaseException: what an earlier task raised.
        """
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= _MAX_WAITING):
            self._waiting.popleft().result()
        self._waiting.append(self._executor.submit(self._do, task))

    def wait(self) -> None:
        """Waits until all is done.

        Raises:
            BaseException: what a task raised.
        """
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """Does what is left, and ends the thread.

        Raises:
            BaseException: what a task raised, unless that came out before.
        """
        try:
            self.wait()
        finally:
            self._executor.shutdown()

    def _do(self, task: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            task()
        except BaseException:
            self._failed = True
            raise
