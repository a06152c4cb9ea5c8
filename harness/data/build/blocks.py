"""Blocks of numbered rows, each in an Arrow file of its own while a data set is built.

Letters: B rows, N tokens of all rows together, T distinct tokens, L labels of all rows together.
"""

import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow

from harness.base.reading import damage
from harness.data.ragged import RaggedSets
from harness.data.readers.records import Block, Kind, Part
from harness.data.tokens import Numbered, Tokenization, numbered, numbered_rows
from kernels.files import replacing

_BLOCKS_AHEAD = 3
"""Blocks to prepare while one is used; more would take memory."""
_METADATA = "block"


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberedBlock:
    """B rows whose tokens and labels are numbered within the block."""

    part: Part
    kind: Kind
    is_multi_label: bool
    digests: npt.NDArray[np.uint64]
    """Hashes of the rows' contents, [B]."""
    labels: Numbered
    """The rows' labels, one or several in each."""
    tokens: pyarrow.LargeBinaryArray | None
    """Distinct tokens in UTF-8, [T]; None if `values` are ids."""
    values: npt.NDArray[np.int32]
    """Tokens as places in `tokens`, or ids, [N]."""
    row_splits: npt.NDArray[np.int64]
    """Row boundaries in `values`, [B + 1]."""
    weights: npt.NDArray[np.float32] | None
    """Weights of the ids in `values`, if they came with weights, [N]."""

    def save(self, path: Path) -> None:
        """Writes the block, whole or not at all."""
        columns = {
            "digests": pyarrow.array(self.digests),
            "labels": _lists(self.labels.row_splits, self.labels.values, self.labels.tokens),
            "values": _lists(self.row_splits, self.values, self.tokens),
        }
        if self.weights is not None:
            columns["weights"] = _lists(self.row_splits, self.weights)
        about = self.part, self.kind, self.is_multi_label
        batch = pyarrow.record_batch(columns, metadata={_METADATA: json.dumps(about)})
        with (
            replacing(path) as beside,
            beside.open("wb") as file,
            pyarrow.ipc.new_file(file, batch.schema) as writer,
        ):
            writer.write_batch(batch)

    @classmethod
    def load(cls, path: Path) -> "NumberedBlock":
        """Maps a block that `save` wrote into memory."""
        remedy = "Remove the folder that it lies in, and build again."
        with damage(path, what="a block of rows", remedy=remedy):
            batch = pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).get_batch(0)
            batch.validate(full=True)
            about = json.loads(batch.schema.metadata[_METADATA.encode()])
            part, kind, is_multi_label = about
            splits, labels, names = _parts(batch["labels"])
            row_splits, values, tokens = _parts(batch["values"])
            has_weights = "weights" in batch.schema.names
            return cls(
                part=part,
                kind=kind,
                is_multi_label=is_multi_label,
                digests=batch["digests"].to_numpy(),
                labels=Numbered(tokens=names, values=labels, row_splits=splits),
                tokens=tokens,
                values=values,
                row_splits=row_splits,
                weights=_parts(batch["weights"])[1] if has_weights else None,
            )


def _lists(
    row_splits: npt.NDArray[np.int64],
    values: npt.NDArray[Any],
    strings: pyarrow.LargeBinaryArray | None = None,
) -> pyarrow.LargeListArray:
    """Returns rows of numbers, or of the strings that the numbers stand for."""
    items = pyarrow.array(values)
    if strings is not None:
        items = pyarrow.DictionaryArray.from_arrays(items, strings)
    return pyarrow.LargeListArray.from_arrays(row_splits, items)


def _parts(
    lists: pyarrow.LargeListArray,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], pyarrow.LargeBinaryArray | None]:
    """Returns what `_lists` was given."""
    splits, items = lists.offsets.to_numpy(), lists.values
    if isinstance(items, pyarrow.DictionaryArray):
        return splits, items.indices.to_numpy(), items.dictionary
    return splits, items.to_numpy(), None


Result = TypeVar("Result")


class BlockFiles:
    """Files of a source's blocks in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.count = 0
        """Number of complete blocks."""

    def path(self, number: int) -> Path:
        """Returns the path of a block's file, complete or not."""
        return self._folder / f"{number:06}.arrow"

    def __iter__(self) -> Iterator[NumberedBlock]:
        return (NumberedBlock.load(self.path(number)) for number in range(self.count))

    def map(self, function: Callable[[NumberedBlock, slice], Result]) -> Iterator[Result]:
        """Calls a function with each block and the slice of its rows among all rows, for several
        blocks at a time; yields the results in the order of the blocks."""

        def arguments() -> Iterator[tuple[NumberedBlock, slice]]:
            start = 0
            for block in self:
                yield block, slice(start, start := start + len(block.digests))

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            yield from in_order(pool, function, arguments(), ahead=_BLOCKS_AHEAD)


def in_order(
    pool: Executor,
    function: Callable[..., Result],
    arguments: Iterable[tuple[Any, ...]],
    *,
    ahead: int,
) -> Iterator[Result]:
    """Runs calls of a function in a pool, and yields their results in the order of `arguments`.
    Waits for the oldest call once more than `ahead` calls are pending."""
    waiting: deque[Future[Result]] = deque()
    try:
        for given in arguments:
            waiting.append(pool.submit(function, *given))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for pending in waiting:
            pending.cancel()


def save_numbered(block: Block, path: Path, tokenization: Tokenization) -> None:
    """Saves a block as `numbered_block` makes it, unless an interrupted build has saved it."""
    if not path.exists():
        numbered_block(block, tokenization).save(path)


def numbered_block(block: Block, tokenization: Tokenization) -> NumberedBlock:
    """Numbers the tokens and labels of a block; each string in a row of strings is a token."""
    rows: Any = block.contents
    if block.kind == "sets":
        found: Numbered | RaggedSets = rows
        contents = _bytes_of(rows)
    elif block.kind == "texts":
        found = numbered(rows, tokenization)
        contents = (text.encode() for text in rows)
    else:
        found = numbered_rows(rows)
        contents = ("\0".join(row).encode() for row in rows)
    labels = block.labels if block.is_multi_label else [[label] for label in block.labels]
    return NumberedBlock(
        part=block.part,
        kind=block.kind,
        is_multi_label=block.is_multi_label,
        digests=np.fromiter(map(_digest_of, contents), np.uint64),
        labels=numbered_rows(labels),
        tokens=found.tokens if isinstance(found, Numbered) else None,
        values=found.values,
        row_splits=found.row_splits,
        weights=None if isinstance(found, Numbered) else found.weights,
    )


def _digest_of(content: bytes) -> int:
    """Returns a 64-bit hash of a row's content; 0 for an empty row."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little") if content else 0


def _bytes_of(sets: RaggedSets) -> Iterator[bytes]:
    """Yields the content of each row: its ids and their weights."""
    # No weights mean ones: a block with weights may hold a row equal to one without.
    weights = np.ones(sets.nnz, np.float32) if sets.weights is None else sets.weights
    for start, stop in itertools.pairwise(sets.row_splits.tolist()):
        yield sets.values[start:stop].tobytes() + weights[start:stop].tobytes()
