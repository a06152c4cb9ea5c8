"""Blocks of numbered rows, each in a file of its own while a data set is built.

Letters: B rows, T distinct tokens, C distinct labels of a block.
"""

import hashlib
import itertools
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow.compute import binary_length

from harness.base.reading import damage
from harness.data.ragged import RaggedSets
from harness.data.readers.records import Block, Kind, Part, Problems, UnreadBlock
from harness.data.tokens import Numbered, Tokenization, numbered, numbered_rows
from kernels.files import replacing

_PARTS: tuple[Part, ...] = ("", "train", "test")
_BLOCKS_AHEAD = 3
"""Blocks to prepare while one is used; more would take memory."""
_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockFacts:
    """Facts about B rows apart from their tokens."""

    part: Part
    kind: Kind
    digests: npt.NDArray[np.uint64]
    """Hashes of the rows' contents, [B]."""
    labels: Numbered
    """The rows' labels, one or several in each."""
    is_multi_label: bool
    has_weights: bool = False
    problems: Problems = field(default_factory=Problems)
    """Problems met while reading the block, if it came unread."""

    @property
    def num_rows(self) -> int:
        """B, the number of rows."""
        return len(self.digests)


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberedBlock:
    """B rows whose tokens and labels are numbered within the block."""

    facts: BlockFacts
    tokens: pyarrow.LargeBinaryArray | None
    """Distinct tokens in UTF-8, [T]; None if `values` are ids."""
    values: npt.NDArray[np.int32]
    row_splits: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32] | None = None
    """Weights of the ids in `values`, if they came with weights."""

    def save(self, path: Path) -> None:
        """Writes the block, whole or not at all."""
        facts = self.facts
        arrays: dict[str, npt.NDArray[Any]] = {
            "part": np.array(_PARTS.index(facts.part)),
            "kind": np.array(_KINDS.index(facts.kind)),
            "values": self.values,
            "row_splits": self.row_splits,
            "digests": facts.digests,
            **_stored("label", facts.labels.tokens),
            "label_values": facts.labels.values,
            "label_splits": facts.labels.row_splits,
            "is_multi_label": np.array(facts.is_multi_label),
            "problems": np.array(json.dumps([facts.problems.counts, facts.problems.first])),
        }
        if self.tokens is not None:
            arrays |= _stored("token", self.tokens)
        if self.weights is not None:
            arrays["weights"] = self.weights
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "NumberedBlock":
        """Reads a block that `save` wrote.

        Raises:
            InputError: if the file is damaged.
        """
        remedy = "Remove the folder that it lies in, and build again."
        with damage(path, what="a block of rows", remedy=remedy), np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
            counts, first = json.loads(str(arrays["problems"]))
            facts = BlockFacts(
                part=_PARTS[int(arrays["part"])],
                kind=_KINDS[int(arrays["kind"])],
                digests=arrays["digests"],
                labels=Numbered(
                    tokens=_restored("label", arrays),
                    values=arrays["label_values"],
                    row_splits=arrays["label_splits"],
                ),
                is_multi_label=bool(arrays["is_multi_label"]),
                has_weights="weights" in arrays,
                problems=Problems(counts=Counter(counts), first=first),
            )
            return cls(
                facts=facts,
                tokens=_restored("token", arrays) if "token_ends" in arrays else None,
                values=arrays["values"],
                row_splits=arrays["row_splits"],
                weights=arrays.get("weights"),
            )


Result = TypeVar("Result")


class BlockFiles:
    """Files of a source's blocks in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.num_rows: list[int] = []
        """Numbers of rows of the complete blocks."""

    def path(self, number: int) -> Path:
        """Returns the path of a block's file, complete or not."""
        return self._folder / f"{number:06}.npz"

    def map(self, function: Callable[[NumberedBlock, slice], Result]) -> Iterator[Result]:
        """Calls a function with each block and the slice of its rows among all rows, for several
        blocks at a time; yields the results in the order of the blocks."""
        starts = itertools.accumulate(self.num_rows, initial=0)
        places = (slice(start, stop) for start, stop in itertools.pairwise(starts))

        def made(number: int, rows: slice) -> Result:
            return function(NumberedBlock.load(self.path(number)), rows)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            try:
                yield from in_order(pool, made, enumerate(places), ahead=_BLOCKS_AHEAD)
            finally:
                pool.shutdown(cancel_futures=True)


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
    for given in arguments:
        waiting.append(pool.submit(function, *given))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def numbered_block(
    block: Block | UnreadBlock, tokenization: Tokenization, *, strict: bool = False
) -> NumberedBlock:
    """Numbers the tokens and labels of a block; each string in a row of strings is a token.

    Args:
        block: a block of a source, read or not.
        tokenization: how texts are divided into tokens.
        strict: whether a problem of an unread block is an error.

    Raises:
        InputError: if an unread block cannot be read.
    """
    problems = Problems(strict=strict)
    if isinstance(block, UnreadBlock):
        block = block.read(problems)
    if block.sets is not None:
        found: Numbered | RaggedSets = block.sets
        digests = digests_of_sets(block.sets)
    elif block.texts is not None:
        found = numbered(block.texts, tokenization)
        digests = digests_of(text.encode() for text in block.texts)
    else:
        rows = block.tokens or ()
        found = numbered_rows(rows)
        digests = digests_of("\0".join(row).encode() for row in rows)
    is_multi_label = any(not isinstance(label, str) for label in block.labels)
    labels = [[label] if isinstance(label, str) else label for label in block.labels]
    weights = None if isinstance(found, Numbered) else found.weights
    facts = BlockFacts(
        part=block.part,
        kind=block.kind,
        digests=np.array(digests, np.uint64),
        labels=numbered_rows(labels),
        is_multi_label=is_multi_label,
        has_weights=weights is not None,
        problems=problems,
    )
    return NumberedBlock(
        facts=facts,
        tokens=found.tokens if isinstance(found, Numbered) else None,
        values=found.values,
        row_splits=found.row_splits,
        weights=weights,
    )


def digests_of(rows: Iterable[bytes]) -> list[int]:
    """Returns a 64-bit hash of each row's content; 0 for an empty row."""
    return [
        int.from_bytes(hashlib.sha256(row).digest()[:8], "little") if row else 0 for row in rows
    ]


def digests_of_sets(sets: RaggedSets) -> list[int]:
    """Returns `digests_of` rows of ids with their weights."""
    content, splits = sets.values.tobytes(), (4 * sets.row_splits).tolist()
    # No weights mean ones: a block with weights may hold a row equal to one without.
    weights = (np.ones(sets.nnz, np.float32) if sets.weights is None else sets.weights).tobytes()
    return digests_of(
        content[start:stop] + weights[start:stop] for start, stop in itertools.pairwise(splits)
    )


def _stored(name: str, strings: pyarrow.LargeBinaryArray) -> dict[str, npt.NDArray[Any]]:
    """Returns strings as two arrays: their bytes, and the end of each string."""
    lengths = binary_length(strings).to_numpy()
    content = b"".join(strings.to_pylist())
    return {
        f"{name}_bytes": np.frombuffer(content, np.uint8),
        f"{name}_ends": np.cumsum(lengths, dtype=np.int64),
    }


def _restored(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> pyarrow.LargeBinaryArray:
    ends = np.concatenate([[0], arrays[f"{name}_ends"]])
    buffers = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(arrays[f"{name}_bytes"])]
    strings = pyarrow.LargeBinaryArray.from_buffers(pyarrow.large_binary(), len(ends) - 1, buffers)
    strings.validate(full=True)  # the file may be damaged
    return strings
