"""The first pass of a build: rows become numbered tokens, in a file without a name. Letters: B
rows, N tokens of all rows together, T distinct tokens."""

import itertools
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow

from harness.data.ragged import RaggedSets
from harness.data.readers.records import Block, Kind, Problems, Source
from harness.data.tokens import Numbered, Tokenization, numbered, numbered_rows

_MOST_THREADS = 4  # in work: one thread reads the source, so that more would take memory only

Result = TypeVar("Result")
Sets = TypeVar("Sets", Numbered, RaggedSets)
Digests = npt.NDArray[np.int64]  # Python's hashes of rows' contents, [B]; 0 for an empty row


class Spool(AbstractContextManager["Spool[Sets]"], Generic[Sets]):
    """Blocks of rows in a temporary file, which vanishes with the process: it has no name."""

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115  closed by __exit__
        self._count = 0

    def add(self, block: Sets) -> None:
        pickle.dump(block, self._file, pickle.HIGHEST_PROTOCOL)
        self._count += 1

    def __iter__(self) -> Iterator[Sets]:
        self._file.seek(0)
        for _ in range(self._count):
            yield pickle.load(self._file)

    def map(self, function: Callable[[Sets, slice], Result]) -> Iterator[Result]:
        """Yields in order what the function returns for each block and the slice of its rows."""

        def arguments() -> Iterator[tuple[Sets, slice]]:
            start = 0
            for block in self:
                yield block, slice(start, start := start + len(block.row_splits) - 1)

        return _in_order(function, arguments())

    def __exit__(self, *_: object) -> None:
        self._file.close()


def numbered_blocks(
    source: Source, problems: Problems, tokenization: Tokenization
) -> Iterator[tuple[Block, Numbered, Digests, int]]:
    """Yields each block of a source, the same numbered, the hashes of its rows' contents, and its
    size as text."""
    arguments = ((block, source.kind, tokenization) for block in source.blocks(problems))
    return _in_order(_numbered, arguments)


def _in_order(
    function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]
) -> Iterator[Result]:
    """Calls a function for several blocks at a time, and yields the results in order."""
    waiting: deque[Future[Result]] = deque()
    # Threads, as Arrow does most of the work: processes were faster only from 100 MB on.
    threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads) as pool:
        try:
            for given in arguments:
                waiting.append(pool.submit(function, *given))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for pending in waiting:
                pending.cancel()


def _numbered(
    given: Block, kind: Kind, tokenization: Tokenization
) -> tuple[Block, Numbered, Digests, int]:
    """Numbers the tokens of a block; each string in a row of strings is a token."""
    rows: Any = given.contents
    if kind == "sets":
        parts = {name: getattr(rows, name) for name in ("values", "row_splits", "weights")}
        block = Numbered(tokens=pyarrow.array([], pyarrow.large_binary()), **parts)
        # No weights mean ones: a block with weights may hold a row equal to one without.
        weights = np.ones(rows.nnz, np.float32) if rows.weights is None else rows.weights
        bounds = itertools.pairwise(rows.row_splits.tolist())
        contents = [rows.values[a:b].tobytes() + weights[a:b].tobytes() for a, b in bounds]
    elif kind == "texts":
        block = numbered(rows, tokenization)
        contents = [text.encode() for text in rows]
    else:
        block = numbered_rows(rows)
        contents = ["\0".join(row).encode() for row in rows]
    digests = np.fromiter(map(hash, contents), np.int64, len(contents))
    return given, block, digests, sum(map(len, contents))
