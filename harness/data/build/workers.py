"""Processes, one for each core, that read blocks, number their tokens and write them.

They are started as commands, not by `multiprocessing`, which would run a user's script again in
each process.
"""

import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from harness.base.errors import InputError, LostWorkerError
from harness.data.build.blocks import BlockFacts, NumberedBlock, in_order, numbered_block
from harness.data.readers.records import Block, UnreadBlock
from harness.data.tokens import Tokenization

_START = "import sys; from harness.data.build.workers import serve; serve(int(sys.argv[1]))"


_Unnumbered = Block | UnreadBlock


def _save(block: _Unnumbered, path: Path, tokenization: Tokenization, strict: bool) -> BlockFacts:
    made = numbered_block(block, tokenization, strict=strict)
    made.save(path)
    return made.facts


class Workers:
    """Numbers blocks and writes them, several at a time. As a context, it ends its processes."""

    def __init__(
        self, tokenization: Tokenization, *, where: str, processes: int, strict: bool = False
    ) -> None:
        """Args:
        tokenization: how texts are divided into tokens.
        where: the blocks' source, for messages.
        processes: limit of the processes to start, as they are needed; 1 starts none.
        strict: whether a problem of an unread block is an error.
        """
        self._how = tokenization, strict
        self._where, self._processes = where, processes
        self._local = threading.local()  # each thread of the pool has a process of its own
        self._closing = ExitStack()
        self._pool = ThreadPoolExecutor(processes)

    def map(self, blocks: Iterable[tuple[_Unnumbered, Path]]) -> Iterator[BlockFacts]:
        """Numbers blocks and saves them at the paths, about one block ahead for each process.

        Returns:
            The facts about the blocks, in their order. Blocks whose files exist are not built
            again.

        Raises:
            InputError, OSError: as `numbered_block` and `NumberedBlock.save`.
            LostWorkerError: if a process was ended from outside.
        """
        return in_order(self._pool, self._saved, blocks, ahead=self._processes)

    def _saved(self, block: _Unnumbered, path: Path) -> BlockFacts:
        if path.exists():  # from a build that was interrupted
            return NumberedBlock.load(path).facts
        if self._processes == 1:
            return _save(block, path, *self._how)
        if not hasattr(self._local, "connection"):
            self._local.connection = self._start()
        try:
            self._local.connection.send((block, path, *self._how))
            found: BlockFacts | Exception = self._local.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise LostWorkerError(
                f"a process that read {self._where} was ended from outside, as where memory is "
                "short. Free some, and run the command again; data build goes on with what is done."
            ) from error
        if isinstance(found, Exception):
            raise found
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
        self._closing.callback(here.close)  # makes the process end
        return here

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._closing.close()


def serve(descriptor: int) -> None:
    """Runs a worker process: handles blocks until its parent closes the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    with multiprocessing.connection.Connection(descriptor) as connection:
        while True:
            try:
                task = connection.recv()
            except (EOFError, ConnectionResetError):
                return
            try:
                connection.send(_save(*task))
            except (InputError, OSError) as error:
                connection.send(error)
