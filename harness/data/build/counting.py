"""The most frequent tokens of many blocks, in bounded memory.

Letters: T distinct tokens of a block.
"""

from collections.abc import Callable, Iterable
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow

Counted = tuple[pyarrow.LargeBinaryArray, npt.NDArray[np.int64]]
"""Distinct tokens of a block in UTF-8, and how often each occurs, [T]."""

_NONE = np.zeros(0, np.int64)
_MOST_AT_ONCE = 3_000_000
"""Tokens to count at a time."""
_MOST_WAITING = 1_000_000
"""Tokens of blocks that are added to the counts at a time."""


def most_frequent(
    blocks: Callable[[], Iterable[Counted]],
    *,
    most: int,
    min_count: int = 1,
) -> list[str]:
    """Tokens by how often they occur in all blocks, the most frequent first; of two that occur
    equally often, the one that appears first.

    If there are too many to count at once, they are counted by parts: those of one remainder of
    their checksum, then those of the next.

    Args:
        blocks: gives the blocks, the same each time that it is called.
        most: tokens to return.
        min_count: rarer tokens are left out.
    """
    num_parts = 1
    while (parts := _in_parts(blocks, num_parts, most, min_count)) is None:
        num_parts *= 2
    counts, firsts = (np.concatenate([part[index] for part in parts]) for index in (1, 2))
    tokens = pyarrow.concat_arrays([part[0] for part in parts])
    found = tokens.take(np.lexsort((firsts, -counts))[:most])
    return [token.decode() for token in found.to_pylist()]


_Part = tuple[pyarrow.LargeBinaryArray, npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Tokens, how often they occur, and where they first appear."""


def _in_parts(
    blocks: Callable[[], Iterable[Counted]],
    num_parts: int,
    most: int,
    min_count: int,
) -> list[_Part] | None:
    """The most frequent tokens of each part; None where one has too many tokens."""
    parts = []
    for part in range(num_parts):
        found = _counted(blocks(), part, num_parts)
        if found is None:
            return None
        tokens, counts, firsts = found
        kept = np.flatnonzero(counts >= min_count)
        kept = kept[np.lexsort((firsts[kept], -counts[kept]))[:most]]
        parts.append((tokens.take(kept), counts[kept], firsts[kept]))
    return parts


def _counted(blocks: Iterable[Counted], part: int, num_parts: int) -> _Part | None:
    merged: _Part = (pyarrow.array([], pyarrow.large_binary()), _NONE, _NONE)
    waiting: list[_Part] = []
    passed = num_waiting = 0
    for tokens, occurrences in blocks:
        chosen = occurrences > 0
        if num_parts > 1:
            checksums = (crc32(token) for token in tokens.to_pylist())
            chosen &= np.fromiter(checksums, np.int64, len(tokens)) % num_parts == part
        numbers = np.flatnonzero(chosen)
        waiting.append((tokens.take(numbers), occurrences[numbers], passed + numbers))
        passed += len(tokens)
        num_waiting += len(numbers)
        if num_waiting > _MOST_WAITING:
            merged, waiting, num_waiting = _merged([merged, *waiting]), [], 0
            if len(merged[0]) > _MOST_AT_ONCE:
                return None
    merged = _merged([merged, *waiting])
    return None if len(merged[0]) > _MOST_AT_ONCE else merged


def _merged(parts: list[_Part]) -> _Part:
    """Each token once, as they first appear."""
    tokens, counts, firsts = zip(*parts, strict=True)
    found = pyarrow.concat_arrays(tokens).dictionary_encode()
    places = found.indices.to_numpy()
    num_tokens = len(found.dictionary)
    first = np.zeros(num_tokens, np.int64)
    first[places[::-1]] = np.concatenate(firsts)[::-1]  # the last one that is written stays
    count = np.zeros(num_tokens, np.int64)
    np.add.at(count, places, np.concatenate(counts))
    return found.dictionary, count, first
