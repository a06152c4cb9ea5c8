"""Processes that tokenize blocks of texts, one on each core.

They are started by name, not by `multiprocessing`, which would run a user's script once more in
each of them.
"""

import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from harness.data.build.blocks import digests_of
from harness.data.tokens import Numbered, Tokenization, numbered, numbered_rows

Rows = Sequence[str] | Sequence[Sequence[str]]
"""Texts, or rows of strings."""
Found = tuple[Numbered, list[int]]
"""Numbered rows, and the digests of their contents."""

_START = "import sys; from harness.data.build.workers import serve; serve(int(sys.argv[1]))"


def tokenized(rows: Rows, tokenization: Tokenization) -> Found:
    """Numbers the tokens of a block; those of rows of strings are the strings."""
    texts = [row if isinstance(row, str) else "\0".join(row) for row in rows]
    digests = digests_of(text.encode() for text in texts)
    lists = [row for row in rows if not isinstance(row, str)]
    return (numbered_rows(lists) if lists else numbered(texts, tokenization)), digests


class Workers:
    """Tokenizes blocks, several at a time. As a context, it ends its processes."""

    def __init__(self, tokenization: Tokenization, *, processes: int) -> None:
        """Args:
        tokenization: of all blocks.
        processes: to start, as they are needed; 1: none but this one.
        """
        self._tokenization, self._processes = tokenization, processes
        self._local = threading.local()  # each thread of the pool has a process of its own
        self._closing = ExitStack()
        self._pool = ThreadPoolExecutor(processes) if processes > 1 else None

    def map(self, blocks: Iterable[Rows | None]) -> Iterator[Found | None]:
        """The blocks in their order, about as many ahead as there are processes; None for None."""
        waiting: deque[Future[Found] | Found | None] = deque()
        for rows in blocks:
            if rows is None:
                waiting.append(None)
            elif self._pool is None:
                waiting.append(tokenized(rows, self._tokenization))
            else:
                waiting.append(self._pool.submit(self._ask, rows))
            while len(waiting) > (self._processes if self._pool else 0):
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())

    def _ask(self, rows: Rows) -> Found:
        if not hasattr(self._local, "connection"):
            self._local.connection = self._start()
        self._local.connection.send((rows, self._tokenization))
        found: Found = self._local.connection.recv()
        return found

    def _start(self) -> multiprocessing.connection.Connection:
        here, there = multiprocessing.Pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(there.fileno())],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        there.close()
        self._closing.callback(process.wait)
        self._closing.callback(here.close)  # tells it to end
        return here

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._closing.close()


def serve(descriptor: int) -> None:
    """What a process does: it answers until whoever started it closes the pipe, or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    with multiprocessing.connection.Connection(descriptor) as connection:
        while True:
            try:
                rows, tokenization = connection.recv()
            except (EOFError, ConnectionResetError):
                return
            connection.send(tokenized(rows, tokenization))


def _result(found: Future[Found] | Found | None) -> Found | None:
    return found.result() if isinstance(found, Future) else found
