"""Finds the most frequent tokens of many blocks in bounded memory."""

from collections.abc import Callable, Iterable
from typing import NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow

_MOST_AT_ONCE = 3_000_000
"""Limit of the distinct tokens that are counted at a time."""
_MOST_WAITING = 1_000_000
"""Number of blocks' tokens above which they are added to the counts."""
_CHECKSUMS = 1 << 32

BlockCounts = tuple[pyarrow.LargeBinaryArray, npt.NDArray[np.int64]]
"""Distinct tokens of a block in UTF-8, and how often each occurs."""


class _Counts(NamedTuple):
    tokens: pyarrow.LargeBinaryArray
    counts: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]
    """Numbers of the tokens' first appearances."""

    def take(self, chosen: npt.NDArray[np.int64]) -> "_Counts":
        return _Counts(self.tokens.take(chosen), self.counts[chosen], self.firsts[chosen])

    def within(self, start: int, stop: int) -> "_Counts":
        """Returns the tokens whose checksums are in a range."""
        if (start, stop) == (0, _CHECKSUMS):
            return self
        checksums = np.fromiter(map(crc32, self.tokens.to_pylist()), np.int64)
        return self.take(np.flatnonzero((start <= checksums) & (checksums < stop)))


_NONE = _Counts(
    pyarrow.array([], pyarrow.large_binary()), np.zeros(0, np.int64), np.zeros(0, np.int64)
)


def most_frequent(
    blocks: Callable[[], Iterable[BlockCounts]], *, most: int, min_count: int = 1
) -> list[str]:
    """Returns the most frequent tokens of all blocks, the most frequent first; of two that occur
    equally often, the one that appears first.

    If there are too many tokens to count at once, they are counted in several passes over the
    blocks, each for the tokens with checksums of a range: each call of `blocks` gives the same.
    """
    found, start = _NONE, 0
    while start < _CHECKSUMS:
        counted, stop = _counted(blocks(), start)
        found = _merged([found, counted.take(np.flatnonzero(counted.counts >= min_count))])
        found = found.take(np.lexsort((found.firsts, -found.counts))[:most])
        start = stop
    return [token.decode() for token in found.tokens.to_pylist()]


def _counted(blocks: Iterable[BlockCounts], start: int) -> tuple[_Counts, int]:
    """Counts tokens with checksums from `start` on, up to a limit that leaves few enough of them;
    returns the counts and the limit."""
    merged, stop = _NONE, _CHECKSUMS
    waiting: list[_Counts] = []
    passed = num_waiting = 0
    for tokens, counts in blocks:
        block = _Counts(tokens, counts, np.arange(passed, passed + len(tokens)))
        passed += len(tokens)
        waiting.append(block.take(np.flatnonzero(counts)).within(start, stop))
        num_waiting += len(waiting[-1].tokens)
        if num_waiting > _MOST_WAITING:
            merged, waiting, num_waiting = _merged([merged, *waiting]), [], 0
            while len(merged.tokens) > _MOST_AT_ONCE and stop - start > 1:
                stop = (start + stop) // 2
                merged = merged.within(start, stop)
    return _merged([merged, *waiting]), stop


def _merged(parts: list[_Counts]) -> _Counts:
    """Merges counts of earlier and later blocks: each token once, in the order in which they first
    appear."""
    tokens, counts, firsts = zip(*parts, strict=True)
    # Arrow's group_by takes seven times as long.
    found = pyarrow.concat_arrays(tokens).dictionary_encode()
    places = found.indices.to_numpy()
    first = np.zeros(len(found.dictionary), np.int64)
    first[places[::-1]] = np.concatenate(firsts)[::-1]  # the last write stays
    count = np.zeros(len(found.dictionary), np.int64)
    np.add.at(count, places, np.concatenate(counts))
    return _Counts(found.dictionary, count, first)
