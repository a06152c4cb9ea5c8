"""The most frequent tokens of many blocks, in bounded memory.

Letters: T distinct tokens of a block.
"""

from collections.abc import Callable, Iterable
from zlib import crc32

import numpy as np
import numpy.typing as npt

from harness.data.tokens import Places

Counted = tuple[list[str], npt.NDArray[np.int64]]
"""Distinct tokens of a block, and how often each occurs, [T]."""

_MOST_AT_ONCE = 3_000_000
"""Tokens in memory at a time."""


def most_frequent(
    blocks: Callable[[], Iterable[Counted]],
    *,
    most: int,
    min_count: int = 1,
    most_at_once: int = _MOST_AT_ONCE,
) -> list[str]:
    """Tokens by how often they occur in all blocks, the most frequent first; of two that occur
    equally often, the one that appears first.

    If there are too many to count at once, they are counted by parts: those of one remainder of
    their checksum, then those of the next.

    Args:
        blocks: gives the blocks, the same each time that it is called.
        most: tokens to return.
        min_count: rarer tokens are left out.
        most_at_once: tokens to count at a time.
    """
    num_parts = 1
    while (parts := _in_parts(blocks, num_parts, most, min_count, most_at_once)) is None:
        num_parts *= 2
    tokens = [token for part in parts for token in part[0]]
    counts, firsts = (np.concatenate([part[index] for part in parts]) for index in (1, 2))
    order = np.lexsort((firsts, -counts))[:most]
    return [tokens[place] for place in order.tolist()]


_Part = tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Tokens, how often they occur, and where they first appear."""


def _in_parts(
    blocks: Callable[[], Iterable[Counted]],
    num_parts: int,
    most: int,
    min_count: int,
    most_at_once: int,
) -> list[_Part] | None:
    """The most frequent tokens of each part; None where one has too many tokens."""
    parts = []
    for part in range(num_parts):
        found = _counted(blocks(), part, num_parts, most_at_once)
        if found is None:
            return None
        tokens, counts, firsts = found
        kept = np.flatnonzero(counts >= min_count)
        kept = kept[np.lexsort((firsts[kept], -counts[kept]))[:most]]
        parts.append(([tokens[place] for place in kept.tolist()], counts[kept], firsts[kept]))
    return parts


def _counted(
    blocks: Iterable[Counted], part: int, num_parts: int, most_at_once: int
) -> _Part | None:
    places = Places()
    counts = np.zeros(1024, np.int64)
    firsts = [np.zeros(0, np.int64)]
    passed = 0
    for tokens, occurrences in blocks:
        chosen = occurrences > 0
        if num_parts > 1:
            checksums = (crc32(token.encode()) for token in tokens)
            chosen &= np.fromiter(checksums, np.int64, len(tokens)) % num_parts == part
        numbers = np.flatnonzero(chosen)
        known = len(places)
        found = np.fromiter(
            map(places.__getitem__, [tokens[number] for number in numbers.tolist()]),
            np.int64,
            len(numbers),
        )
        if len(places) > most_at_once:
            return None
        if len(places) > len(counts):
            counts = np.concatenate([counts, np.zeros(len(places), np.int64)])
        counts[found] += occurrences[numbers]  # each token once
        firsts.append(passed + numbers[found >= known])
        passed += len(tokens)
    return list(places), counts[: len(places)], np.concatenate(firsts)
