"""Finds the most frequent tokens of many blocks in bounded memory.

Letters: T distinct tokens of a block.
"""

from collections.abc import Callable, Iterable
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow

Counted = tuple[pyarrow.LargeBinaryArray, npt.NDArray[np.int64]]
"""Distinct tokens of a block in UTF-8, and each one's count, [T]."""

_NONE = np.zeros(0, np.int64)
_MOST_AT_ONCE = 3_000_000
"""Limit of the distinct tokens that are counted at a time."""
_MOST_WAITING = 1_000_000
"""Number of blocks' tokens above which they are added to the counts."""


def most_frequent(
    blocks: Callable[[], Iterable[Counted]],
    *,
    most: int,
    min_count: int = 1,
) -> list[str]:
    """Returns the most frequent tokens of all blocks, the most frequent first; of two that occur
    equally often, the one that appears first.

    If there are too many tokens to count at once, they are counted in parts by the remainder of
    their checksum.

    Args:
        blocks: function that gives the blocks, the same in each call.
        most: limit of the tokens to return.
        min_count: least count of a token to return.
    """
    num_parts = 1
    while (parts := _in_parts(blocks, num_parts, most, min_count)) is None:
        num_parts *= 2
    counts, firsts = (np.concatenate([part[index] for part in parts]) for index in (1, 2))
    tokens = pyarrow.concat_arrays([part[0] for part in parts])
    found = tokens.take(np.lexsort((firsts, -counts))[:most])
    return [token.decode() for token in found.to_pylist()]


_Part = tuple[pyarrow.LargeBinaryArray, npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Tokens, their counts, and where they first appear."""


def _in_parts(
    blocks: Callable[[], Iterable[Counted]],
    num_parts: int,
    most: int,
    min_count: int,
) -> list[_Part] | None:
    """Returns the most frequent tokens of each part; None if a part has too many tokens."""
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
    """Merges parts: each token once, with its total count, in the order of first appearance."""
    tokens, counts, firsts = zip(*parts, strict=True)
    found = pyarrow.concat_arrays(tokens).dictionary_encode()
    places = found.indices.to_numpy()
    num_tokens = len(found.dictionary)
    first = np.zeros(num_tokens, np.int64)
    first[places[::-1]] = np.concatenate(firsts)[::-1]  # the last write stays
    count = np.zeros(num_tokens, np.int64)
    np.add.at(count, places, np.concatenate(counts))
    return found.dictionary, count, first
