"""Builds a data set from a source in three passes, none of which holds all rows in memory.

1. Numbers the tokens of each block of rows; notes the rows' parts, labels and digests.
2. Draws test rows if the source has none; counts the tokens of the train rows.
3. Turns tokens into ids and writes them to a store, test rows first.

The numbered rows wait in a file without a name. Letters: B rows, K classes.
"""

import itertools
import os
import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow

from harness.base.checks import flag_of
from harness.base.decoding import changed
from harness.base.errors import InputError
from harness.base.files import write_json
from harness.data import store
from harness.data.options import INDEX_FROM, NOT_OF, START_ID, UNKNOWN_ID, BuildOptions, Kind
from harness.data.ragged import RaggedSets, num_among, rarest, splits_of, starting_with, stratified
from harness.data.readers.records import IN_WORDS, Block, Problems, Source
from harness.data.tokens import Numbered, Tokenization, numbered, numbered_rows
from harness.data.vocabulary import FILE_NAME as VOCABULARY_FILE_NAME
from harness.data.vocabulary import Vocabulary
from harness.data.weighting import frequencies_of, rows_with

FILE_NAME = "build.json"  # the summary of a build, which is kept beside the data set

_MISSING = {"nan", "NaN", "None", "NULL", "null", "N/A", "<NA>"}  # as programs write missing labels
# Twelve letters of three bytes, more than words have on average: then there are no spaces between.
_MAX_WORD_BYTES = 36
_MAX_LISTED = 5  # names of classes in a message
_NUM_TOKENS = 10_000  # default number of ids, as in the tutorial
_MOST_COUNTED = 10_000_000  # distinct tokens, above which the rarer half is no longer counted
_LEAST_ADDED = 1_000_000  # tokens of blocks below which they wait to be added to the counts
_MOST_THREADS = 4  # in work: one thread reads the source, so that more would take memory only
_LABELS = pyarrow.large_list(pyarrow.dictionary(pyarrow.int32(), pyarrow.string()))

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
# Distinct tokens of a block in UTF-8, and how often each occurs.
BlockCounts = tuple[pyarrow.LargeBinaryArray, Ints]
Result = TypeVar("Result")
Progress = Callable[[str], None]  # callback that is told what is being done, and how far it is


def build(
    source: Source,
    options: BuildOptions,
    folder: Path,
    *,
    unique: bool = True,
    seed: int = 0,
    known: Vocabulary | None = None,
    progress: Progress = lambda text: None,
) -> dict[str, Any]:
    """Builds a data set in a new `folder`; the same source, options and seed give the same one.
    With `unique`, each id of a row is kept once; a `known` vocabulary takes the place of that of
    the train rows; `progress` is told what is done. Returns the summary."""
    if chosen := [flag_of(name) for name in changed(options) if name in NOT_OF[source.kind]]:
        which = ", which are its tokens" if source.kind == "tokens" else ""
        raise InputError(
            f"{source.path} holds {IN_WORDS[source.kind]}{which}, so {', '.join(chosen)} cannot "
            "apply. Leave it out."
        )
    if known and (known.tokenizer == "list") != (source.kind == "tokens"):
        raise InputError(
            f"{source.path} holds {IN_WORDS[source.kind]}, other than the model's data. Give rows "
            "of one form."
        )
    tokenization = known or Tokenization(tokenizer=options.tokenizer, ngrams=options.ngrams)
    problems, rows = Problems(strict=options.strict), Rows(source)
    folder.mkdir()
    text_bytes = 0
    with TemporaryFile(dir=folder) as file:  # without a name: it vanishes with the process
        # First pass: the texts become numbers, block by block.
        given = ((block, source.kind, tokenization) for block in source.blocks(problems))
        for block, found, digests, num_bytes in _in_order(_numbered, given):
            pickle.dump(found, file, pickle.HIGHEST_PROTOCOL)
            rows.add(block, digests, found)
            text_bytes += num_bytes
            progress(f"reading {source.path}: {text_bytes / 1e6:,.0f} MB")
        names = known.class_names if known else source.class_names
        rows.settle(problems, test_split=options.test_split, seed=seed, class_names=names)
        spool = _Spool(file, progress)
        # Second pass: words are counted in train rows alone, so test rows tell the model nothing.
        vocabulary = known or _counted_vocabulary(rows, options, spool)
        # Third pass: the numbers become ids.
        num_ids, num_unknown = _write(rows, vocabulary, spool, folder, unique=unique)
    vocabulary.save(folder / VOCABULARY_FILE_NAME)
    num_train, num_test = int(rows.train.sum()), int(rows.test.sum())
    used = rows.labels[rows.train | rows.test].values
    rows_of_classes = np.bincount(used, minlength=len(rows.class_names)).tolist()
    summary = {
        "source": str(source.path),
        "note": source.note,
        "train_rows": num_train,
        "test_rows": num_test,
        "test_rows_drawn": rows.is_drawn,
        "multi_label": rows.is_multi_label,
        "rows_of_classes": dict(zip(rows.class_names, rows_of_classes, strict=True)),
        "num_tokens": vocabulary.num_tokens,
        "num_ids": num_ids,  # in all rows, including repeated ones
        "text_bytes": text_bytes,
        "num_unknown": num_unknown,  # those of them that stand for tokens outside the vocabulary
        "problems": dict(problems.counts),
        "first_problems": dict(problems.first),
    }
    summary["notes"] = notes = [*_notes(rows, problems)]
    if source.kind == "texts" and text_bytes > _MAX_WORD_BYTES * num_ids:
        notes.append(
            f"{source.path}: words have more than {_MAX_WORD_BYTES} bytes on average. Where a "
            "language has no spaces between words, --tokenizer characters --ngrams 4 needs none"
        )
    write_json(folder / FILE_NAME, summary)
    described = {
        "name": source.name,
        "num_tokens": vocabulary.num_tokens,
        "num_classes": len(rows.class_names),
        "is_unique": unique or vocabulary.is_weighted or rows.has_weights,
    }
    store.seal(folder, described, held_out_rows=num_test)
    return summary


def _notes(rows: "Rows", problems: Problems) -> Iterator[str]:
    path, names, num_test = rows.source.path, rows.class_names, int(rows.test.sum())
    if rows.source.note:
        yield f"{path}: {rows.source.note}"
    if rows.is_drawn:
        yield (
            f"{path}: {num_test:,} of {num_test + rows.train.sum():,} rows were drawn to test on, "
            "the same share of each class"
        )
    for kind, count in problems.counts.items():
        in_all = f" ({count:,} in all)" if count > 1 else ""
        yield f"{problems.first[kind]}: {kind}{in_all}"
    known, in_lower_case = set(names), Counter(name.lower() for name in names)
    for mark in "|,;":
        joined = (name for name in names if mark in name and known.issuperset(name.split(mark)))
        if (name := next(joined, None)) is not None:
            yield (
                f"{path}: the label {name:.40} is taken for one class. If it stands for several, "
                f"set --label-separator '{mark}'"
            )
    for name in sorted(known & _MISSING):
        yield f"{path}: the label {name} is taken for a class. Leave it empty where one is missing"
    if alike := [name for name in names if in_lower_case[name.lower()] > 1]:
        yield f"{path}: labels that differ in case are different classes: {', '.join(alike):.100}"


class Rows:
    """The use of each row and its labels: noted while they are read, then settled."""

    test: Bools
    train: Bools  # masks, [B]; rows that are neither are left out
    is_drawn: bool  # whether the test rows were drawn from the others
    class_names: Sequence[str]  # names of the classes, [K], sorted
    labels: RaggedSets  # each row's classes, as places in `class_names`

    def __init__(self, source: Source) -> None:
        self.source, self.is_multi_label = source, source.is_multi_label
        self.has_weights = False
        self.num_ids = 1  # the limit of ids in rows that hold ids
        # Of each block: the mask of its test rows, the names of each row's classes, and Python's
        # hashes of the rows' contents, which are 0 for an empty row.
        self._noted: list[tuple[Bools, pyarrow.Array, Ints]] = []

    def add(self, block: Block, digests: Ints, numbered: Numbered | None = None) -> None:
        is_test = np.full(len(block.labels), block.part == "test")
        self._noted.append((is_test, pyarrow.array(block.labels, _LABELS), digests))
        if numbered is None:
            return
        self.has_weights |= numbered.sets.weights is not None
        self.num_ids = max(self.num_ids, numbered.sets.num_tokens)

    def settle(
        self, problems: Problems, *, test_split: float, seed: int, class_names: Sequence[str] = ()
    ) -> None:
        """Draws test rows where there are none, numbers the classes, and counts problems. The
        classes are those of the train rows, unless others are named."""
        where, num_rows = str(self.source.path), sum(len(mask) for mask, *_ in self._noted)
        if num_rows < 2:
            problem = next((f" ({at}: {kind})" for kind, at in problems.first.items()), "")
            raise InputError(
                f"{where} has {num_rows} rows that can be used{problem}, and training and testing "
                "take one each. Correct the rows, or give more."
            )
        masks, names_of_rows, digests_of_rows = zip(*self._noted, strict=True)
        test, digests = np.concatenate(masks), np.concatenate(digests_of_rows)
        lists = pyarrow.chunked_array(names_of_rows).unify_dictionaries().combine_chunks()
        labels, splits = lists.values.indices.to_numpy(), lists.offsets.to_numpy()
        names = lists.values.dictionary.to_pylist()  # in the order in which they first appear
        self.is_drawn = not test.any()
        if self.is_drawn and self.source.test_path is not None:
            why, path = ", ".join(problems.counts) or "it is empty", self.source.test_path
            raise InputError(f"{path} has no row to test on that can be used ({why}). Correct it.")
        if self.is_drawn:  # the source does not say which rows are for testing
            classes = rarest(labels, splits) if self.is_multi_label else labels
            num_drawn = min(num_rows - 1, max(1, round(test_split * num_rows)))
            test = stratified(classes, num_drawn, seed=seed)
        elif test.all():
            raise InputError(f"{where} has test rows alone. Give rows to train on.")
        self.train = ~test
        used = labels[np.repeat(self.train, np.diff(splits))]
        self.class_names = class_names or self._sorted([names[n] for n in np.unique(used)])
        numbers = {name: number for number, name in enumerate(self.class_names)}
        labels = np.array([numbers.get(name, -1) for name in names], np.int64)[labels]
        is_known = labels >= 0
        if not is_known.all():
            unknown = _listed(name for name in names if name not in numbers)
            problems.add(
                "test label that no train row has",
                f"{where}, as in the class {unknown}",
                count=int((~is_known).sum()),
            )
            splits = splits_of(is_known)[splits]
            labels = labels[is_known]
            if not self.is_multi_label:  # a row without its class is left out
                self.train, test = (part & (np.diff(splits) > 0) for part in (self.train, test))
                if not (self.train.any() and test.any()):
                    raise InputError(
                        f"{where}: no test row has a class of the train rows. Those have "
                        f"{_listed(self.class_names)}, the test rows {unknown}. A label names a "
                        "class, and is no quantity to predict. Check the columns: "
                        f"{self.source.note}."
                    )
        if num_repeated := num_among(digests[test], digests[self.train]):
            problems.add("test row that is a train row as well", where, count=num_repeated)
        ids, num_classes = labels.astype(np.int32), len(self.class_names)
        self.labels = RaggedSets(values=ids, row_splits=splits, num_tokens=num_classes)
        self.test = test

    def _sorted(self, names: list[str]) -> list[str]:
        """Returns the names of the classes of the train rows sorted, as numbers if all are such."""
        if len(names) < 2:
            listed, path = f"the class {names[0]:.100}" if names else "no classes", self.source.path
            raise InputError(f"{path} has {listed} alone to train on. Give rows of two or more.")
        with suppress(ValueError):
            numbers = [*map(float, names)]
            if not np.isnan(numbers).any():
                return [name for _, name in sorted(zip(numbers, names, strict=True))]
        return sorted(names)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{name:.40}" for name in itertools.islice(names, _MAX_LISTED))


class _Spool:
    """A file of numbered rows, block by block."""

    def __init__(self, file: IO[bytes], progress: Progress) -> None:
        self._file, self._progress = file, progress

    def map(
        self, function: Callable[[Numbered], Result], chosen: Bools, what: str
    ) -> Iterator[Result]:
        """Yields in order what a function returns for the chosen rows of each block that has some;
        `what` says what it does."""

        def blocks() -> Iterator[tuple[Numbered]]:
            self._file.seek(0)
            start = 0
            while start < len(chosen):
                block = pickle.load(self._file)
                rows = chosen[start : start + block.sets.num_rows]
                start += len(rows)
                self._progress(f"{what}: {start / len(chosen):.0%} of the rows")
                if rows.any():
                    yield (block if rows.all() else replace(block, sets=block.sets[rows]),)

        return _in_order(function, blocks())


def _in_order(
    function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]
) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    # Threads, as Arrow does most of the work: processes were faster only from 100 MB on.
    threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads) as pool:
        for given in arguments:
            waiting.append(pool.submit(function, *given))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        for last in waiting:
            yield last.result()


def _numbered(
    given: Block, kind: Kind, tokenization: Tokenization
) -> tuple[Block, Numbered, Ints, int]:
    """Returns a block, its tokens, the hashes of its rows' contents, and its size as text."""
    rows: Any = given.contents
    if kind == "sets":
        block = Numbered(tokens=pyarrow.array([], pyarrow.large_binary()), sets=rows)
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


def _counted_vocabulary(rows: Rows, options: BuildOptions, spool: _Spool) -> Vocabulary:
    vocabulary = _unweighted(rows, options, spool)
    idf = None
    if options.weighting == "tf_idf":
        holding = spool.map(
            lambda block: rows_with(vocabulary.sets_of(block)), rows.train, "counting rows"
        )
        counts: Any = sum(holding)
        unknown_id = vocabulary.unknown_id
        idf = frequencies_of(counts, int(rows.train.sum()), unknown_id=unknown_id).tolist()
    return replace(vocabulary, weighting=options.weighting, idf=idf)


def _unweighted(rows: Rows, options: BuildOptions, spool: _Spool) -> Vocabulary:
    kind, is_text = rows.source.kind, rows.source.kind == "texts"
    known: dict[str, Any] = {"class_names": rows.class_names, "normalize": options.normalize}
    if kind == "sets":
        num_ids = options.num_tokens or rows.num_ids
        if num_ids < rows.num_ids:
            raise InputError(
                f"{rows.source.path} has the id {rows.num_ids - 1}, but --num-tokens is {num_ids}. "
                f"Set it to {rows.num_ids} or more, or leave it out."
            )
        return Vocabulary(ids={}, num_tokens=num_ids, **known)
    known |= {"ngrams": options.ngrams, "tokenizer": options.tokenizer if is_text else "list"}
    if (bits := options.hash_bits) is not None:
        return Vocabulary(ids={}, num_tokens=1 << bits, hash_bits=bits, **known)

    def counted(block: Numbered) -> BlockCounts:
        return block.tokens, np.bincount(block.sets.values, minlength=len(block.tokens))

    is_binary = (options.weighting, options.normalize) == ("binary", "none")
    first = INDEX_FROM + 1  # as in Keras's imdb.npz
    tokens = most_frequent(
        spool.map(counted, rows.train, "counting tokens"),
        most=(options.num_tokens or _NUM_TOKENS) - first,
        min_count=options.min_count,
    )
    return Vocabulary(
        ids={token: number for number, token in enumerate(tokens, first)},
        num_tokens=first + len(tokens),
        # TextVectorization and CategoryEncoding have no start id to weight.
        start_id=START_ID if is_text and is_binary else None,
        unknown_id=UNKNOWN_ID if options.unknown == "id" else None,
        **known,
    )


def most_frequent(blocks: Iterable[BlockCounts], *, most: int, min_count: int = 1) -> list[str]:
    """Returns the most frequent tokens of all blocks, the most frequent first; of two that occur
    equally often, the one that appears first. Of more than 10 million distinct tokens the rarer
    half is forgotten, each time that there are as many (lossy counting, Manku and Motwani, VLDB
    2002): so memory is bounded, and what is rare in one part of the data may count too little."""
    found = pyarrow.array([], pyarrow.large_binary()), np.zeros(0, np.int64)
    waiting: list[BlockCounts] = []
    size = 0
    for tokens, counts in blocks:
        chosen = np.flatnonzero(counts)
        waiting.append((tokens.take(chosen), counts[chosen]))
        size += len(chosen)
        if size > max(_LEAST_ADDED, len(found[1])):  # as many as there are: each is added twice
            found, waiting, size = _merged([found, *waiting]), [], 0
            if len(found[1]) > _MOST_COUNTED:
                kept = np.sort(np.argsort(-found[1], kind="stable")[: _MOST_COUNTED // 2])
                found = found[0].take(kept), found[1][kept]
    tokens, counts = _merged([found, *waiting])
    order = np.argsort(-counts, kind="stable")[:most]
    frequent = tokens.take(order[counts[order] >= min_count])
    return [token.decode() for token in frequent.to_pylist()]


def _merged(parts: list[BlockCounts]) -> BlockCounts:
    """Merges counts: each token once, in the order in which they first appear."""
    tokens, counts = zip(*parts, strict=True)
    # Arrow's group_by takes seven times as long.
    found = pyarrow.concat_arrays(tokens).dictionary_encode()
    sums = np.bincount(found.indices, np.concatenate(counts), minlength=len(found.dictionary))
    return found.dictionary, sums.astype(np.int64)


def _write(
    rows: Rows, vocabulary: Vocabulary, spool: _Spool, folder: Path, *, unique: bool
) -> tuple[int, int]:
    """Writes a store's arrays, test rows first; returns the numbers of tokens and of unknown."""

    def made(block: Numbered) -> tuple[RaggedSets, int, int]:
        sets, num_words = vocabulary.sets_of(block), block.sets.nnz
        num_unknown = int((sets.values == vocabulary.unknown_id).sum()) + num_words - sets.nnz
        if vocabulary.start_id is not None:
            sets = starting_with(vocabulary.start_id, sets)
        if rows.has_weights:
            sets = sets.with_weights()
        sets = vocabulary.weighted(sets)
        sets = sets.unique() if unique or sets.weights is not None else sets
        return sets, num_words, num_unknown

    num_tokens = num_unknown = 0
    lengths = []
    for chosen, part in ((rows.test, "test"), (rows.train, "train")):
        for sets, num_found, num_not_known in spool.map(made, chosen, f"writing {part} rows"):
            num_tokens, num_unknown = num_tokens + num_found, num_unknown + num_not_known
            lengths.append(sets.lengths)
            store.append(folder, values=sets.values, weights=sets.weights)
    labels = rows.labels.take(np.concatenate([*map(np.flatnonzero, (rows.test, rows.train))]))
    store.append(folder, row_splits=splits_of(np.concatenate(lengths)))
    if rows.is_multi_label:
        store.append(folder, labels=np.zeros(labels.num_rows, np.int32))
        store.append(folder, label_values=labels.values, label_splits=labels.row_splits)
    else:  # each row has one
        store.append(folder, labels=labels.values)
    return num_tokens, num_unknown
