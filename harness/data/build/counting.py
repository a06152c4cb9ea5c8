"""The second pass of a build: counts the train rows' tokens, and gives ids to the most frequent."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow

from harness.base.errors import InputError
from harness.data.build.numbering import Spool
from harness.data.build.rows import Rows
from harness.data.options import INDEX_FROM, START_ID, UNKNOWN_ID, BuildOptions
from harness.data.tokens import Numbered, Tokenizer
from harness.data.vocabulary import Vocabulary
from harness.data.weighting import frequencies_of, rows_with

_NUM_TOKENS = 10_000  # default number of ids, as in the tutorial
# Limit of the blocks' distinct tokens that are counted in one pass over all blocks. A token that
# several blocks have counts several times, so that far fewer are in memory at once.
_MOST_AT_ONCE = 10_000_000
_MOST_WAITING = 1_000_000  # number of blocks' tokens above which they are added to the counts

# Distinct tokens of a block in UTF-8, and how often each occurs.
BlockCounts = tuple[pyarrow.LargeBinaryArray, npt.NDArray[np.int64]]


def counted_vocabulary(rows: Rows, options: BuildOptions, spool: Spool[Numbered]) -> Vocabulary:
    """Returns a vocabulary with the ids of the train rows' tokens, and how ids are weighted."""
    vocabulary = _unweighted(rows, options, spool)
    start_id = vocabulary.start_id
    weighting, normalize = options.weighting, options.normalize
    if (weighting, normalize) != ("binary", "none"):
        start_id = None  # TextVectorization and CategoryEncoding have no start id to weight
    idf = None
    if weighting == "tf_idf":
        counts = np.zeros(vocabulary.num_tokens, np.int64)

        def in_train(block: Numbered, places: slice) -> npt.NDArray[np.int64] | None:
            chosen = np.flatnonzero(rows.train[places])
            return rows_with(vocabulary.sets_of(block).take(chosen)) if chosen.size else None

        for found in spool.map(in_train):
            counts += 0 if found is None else found
        num_train = int(rows.train.sum())
        idf = frequencies_of(counts, num_train, unknown_id=vocabulary.unknown_id).tolist()
    how: dict[str, Any] = {"weighting": weighting, "normalize": normalize, "idf": idf}
    return replace(vocabulary, start_id=start_id, **how)


def _unweighted(rows: Rows, options: BuildOptions, spool: Spool[Numbered]) -> Vocabulary:
    names = rows.class_names
    if rows.kind == "sets":
        num_ids = options.num_tokens or rows.num_ids
        if num_ids < rows.num_ids:
            raise InputError(
                f"{rows.where} has the id {rows.num_ids - 1}, but --num-tokens is {num_ids}. "
                f"Set it to {rows.num_ids} or more, or leave it out."
            )
        return Vocabulary(ids={}, num_tokens=num_ids, class_names=names)
    tokenizer: Tokenizer = options.tokenizer if rows.kind == "texts" else "list"
    known: dict[str, Any] = {"class_names": names, "tokenizer": tokenizer, "ngrams": options.ngrams}
    if (bits := options.hash_bits) is not None:
        return Vocabulary(ids={}, num_tokens=1 << bits, hash_bits=bits, **known)

    def counted(block: Numbered, places: slice) -> BlockCounts:
        in_train = np.repeat(rows.train[places], np.diff(block.row_splits))
        return block.tokens, np.bincount(block.values[in_train], minlength=len(block.tokens))

    first = INDEX_FROM + 1  # as in Keras's imdb.npz
    tokens = most_frequent(
        lambda: spool.map(counted),
        num_tokens=rows.num_tokens,
        most=(options.num_tokens or _NUM_TOKENS) - first,
        min_count=options.min_count,
    )
    return Vocabulary(
        ids={token: number for number, token in enumerate(tokens, first)},
        num_tokens=first + len(tokens),
        start_id=START_ID if rows.kind == "texts" else None,
        unknown_id=UNKNOWN_ID if options.unknown == "id" else None,
        **known,
    )


class _Counts(NamedTuple):
    tokens: pyarrow.LargeBinaryArray
    counts: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]  # numbers of the tokens' first appearances

    def take(self, chosen: npt.NDArray[np.int64]) -> "_Counts":
        return _Counts(self.tokens.take(chosen), self.counts[chosen], self.firsts[chosen])


def most_frequent(
    blocks: Callable[[], Iterable[BlockCounts]], *, num_tokens: int, most: int, min_count: int = 1
) -> list[str]:
    """Returns the most frequent tokens of all blocks, the most frequent first; of two that occur
    equally often, the one that appears first. `blocks` returns the same blocks at each call. If
    `num_tokens`, the distinct tokens of each block added up, are many, they are counted in several
    passes, each for the tokens with some checksums."""
    found: list[_Counts] = []
    num_passes = 1 + num_tokens // _MOST_AT_ONCE
    for number in range(num_passes):
        counted = _counted(blocks(), number, num_passes)
        every = _merged([*found, counted.take(np.flatnonzero(counted.counts >= min_count))])
        found = [every.take(np.lexsort((every.firsts, -every.counts))[:most])]
    return [token.decode() for token in found[0].tokens.to_pylist()]


def _counted(blocks: Iterable[BlockCounts], number: int, num_passes: int) -> _Counts:
    waiting: list[_Counts] = []
    passed = num_waiting = 0
    for tokens, counts in blocks:
        is_counted = counts > 0
        if num_passes > 1:
            checksums = np.fromiter(map(crc32, tokens.to_pylist()), np.int64)
            is_counted &= checksums % num_passes == number
        block = _Counts(tokens, counts, np.arange(passed, passed + len(tokens)))
        passed += len(tokens)
        waiting.append(block.take(np.flatnonzero(is_counted)))
        num_waiting += len(waiting[-1].tokens)
        if num_waiting > _MOST_WAITING:
            waiting, num_waiting = [_merged(waiting)], 0
    return _merged(waiting)


def _merged(parts: list[_Counts]) -> _Counts:
    """Merges counts: each token once, in the order in which they first appear."""
    tokens, counts, firsts = zip(*parts, strict=True)
    # Arrow's group_by takes seven times as long.
    found = pyarrow.concat_arrays(tokens).dictionary_encode()
    places = found.indices.to_numpy()
    first = np.zeros(len(found.dictionary), np.int64)
    first[places[::-1]] = np.concatenate(firsts)[::-1]  # the last write stays
    count = np.zeros(len(found.dictionary), np.int64)
    np.add.at(count, places, np.concatenate(counts))
    return _Counts(found.dictionary, count, first)
