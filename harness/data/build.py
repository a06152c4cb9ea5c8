"""Builds a data set from a source in three passes, none of which holds all rows in memory.

1. Numbers the tokens of each block of rows; notes the rows' parts, labels and digests.
2. Draws test rows if the source has none; counts the tokens of the train rows.
3. Turns tokens into ids and writes them to a store, test rows first.

Letters: B rows, N tokens of all rows together, T distinct tokens, K classes, L labels of all rows
together.
"""

import itertools
import os
import pickle
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Generic, NamedTuple, TypeVar
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow

from harness.base.errors import InputError
from harness.base.files import write_json
from harness.base.reading import read_json
from harness.data import store
from harness.data.options import INDEX_FROM, START_ID, UNKNOWN_ID, BuildOptions
from harness.data.ragged import RaggedSets, rarest, starting_with, stratified
from harness.data.readers.records import IN_WORDS, Block, Kind, Problems, Source
from harness.data.tokens import Numbered, Tokenization, Tokenizer, numbered, numbered_rows
from harness.data.vocabulary import FILE_NAME as VOCABULARY_FILE_NAME
from harness.data.vocabulary import Vocabulary
from harness.data.weighting import frequencies_of, rows_with

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
        contents = [*_bytes_of(rows)]
    elif kind == "texts":
        block = numbered(rows, tokenization)
        contents = [text.encode() for text in rows]
    else:
        block = numbered_rows(rows)
        contents = ["\0".join(row).encode() for row in rows]
    digests = np.fromiter(map(hash, contents), np.int64, len(contents))
    return given, block, digests, sum(map(len, contents))


def _bytes_of(sets: RaggedSets) -> Iterator[bytes]:
    """Yields the content of each row: its ids and their weights."""
    # No weights mean ones: a block with weights may hold a row equal to one without.
    weights = np.ones(sets.nnz, np.float32) if sets.weights is None else sets.weights
    for start, stop in itertools.pairwise(sets.row_splits.tolist()):
        yield sets.values[start:stop].tobytes() + weights[start:stop].tobytes()


def with_ids(block: Numbered, vocabulary: Vocabulary) -> RaggedSets:
    """Returns the rows of a block with a vocabulary's ids, each as often as it occurs."""
    values, row_splits = block.values, block.row_splits
    if len(block.tokens):
        values, row_splits = vocabulary.rows_of(block.tokens, values, row_splits)
    parts: dict[str, Any] = {"values": values, "row_splits": row_splits, "weights": block.weights}
    return RaggedSets(**parts, num_tokens=vocabulary.num_tokens, name="a block")


Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_MAX_LISTED = 5


class _Places(dict[str, int]):
    """Numbers names in the order in which they first appear."""

    def __missing__(self, name: str) -> int:
        place = self[name] = len(self)
        return place


class Rows:
    """The use of each row and its labels: noted while they are read, then settled."""

    test: Bools
    train: Bools  # masks, [B]; rows that are neither are left out
    is_drawn: bool  # whether the test rows were drawn from the others
    class_names: Sequence[str]  # names of the classes, [K], sorted
    labels: Ints
    label_splits: Ints  # boundaries of the rows in `labels`, which are places in `class_names`

    def __init__(self, source: Source) -> None:
        self.where, self.kind = str(source.path), source.kind
        self.is_multi_label = source.is_multi_label
        self.has_weights = False
        self.num_tokens = 0  # number of distinct tokens of each block, added up
        self.num_ids = 1  # the limit of ids in rows that hold ids
        self._digests: list[Digests] = []
        self._names = _Places()
        # Arrays take a quarter of the memory of lists.
        self._labels, self._ends = array("q"), array("q", [0])
        self._is_test: list[Bools] = [np.zeros(0, np.bool_)]

    def add(self, block: Block, numbered: Numbered, digests: Digests) -> None:
        """Notes the parts, labels and digests of a block's rows."""
        self._is_test.append(np.full(len(block.labels), block.part == "test"))
        for names in block.labels:
            self._labels.extend(map(self._names.__getitem__, names))
            self._ends.append(len(self._labels))
        if isinstance(block.contents, RaggedSets):
            self.has_weights |= block.contents.weights is not None
            self.num_ids = max(self.num_ids, block.contents.num_tokens)
        self.num_tokens += len(numbered.tokens)
        self._digests.append(digests)

    def settle(self, problems: Problems, *, test_split: float, seed: int) -> None:
        """Draws test rows where there are none, numbers the classes, and counts problems."""
        where, test = self.where, np.concatenate(self._is_test)
        labels, splits = np.array(self._labels, np.int64), np.array(self._ends, np.int64)
        num_rows = test.size
        if num_rows < 2:
            problem = next((f" ({at}: {kind})" for kind, at in problems.first.items()), "")
            raise InputError(
                f"{where} has {num_rows} rows that can be used{problem}, and training and testing "
                "take one each. Give more rows."
            )
        self.is_drawn = not test.any()
        if self.is_drawn:  # the source does not say which rows are for testing
            classes = rarest(labels, splits) if self.is_multi_label else labels
            num_drawn = min(num_rows - 1, max(1, round(test_split * num_rows)))
            test = stratified(classes, num_drawn, seed=seed)
        elif test.all():
            raise InputError(f"{where} has test rows alone. Give rows to train on.")
        self.train = ~test
        labels = self._numbered(labels, labels[np.repeat(self.train, np.diff(splits))])
        unknown = labels < 0
        if unknown.any():
            known = set(self.class_names)
            listed = [name for name in self._names if name not in known][:_MAX_LISTED]
            problems.add(
                "test label that no train row has",
                f"{where}, as in the class {', '.join(f'{name:.40}' for name in listed)}",
                count=int(unknown.sum()),
            )
            if self.is_multi_label:
                splits = np.concatenate([[0], np.cumsum(~unknown)])[splits]
                labels = labels[~unknown]
            else:
                test = test & ~unknown
                if not test.any():
                    raise InputError(f"{where}: no test row has a class of the train rows.")
                labels = np.maximum(labels, 0)  # only of rows that are left out
        if num_repeated := _num_repeated(np.concatenate(self._digests), self.train, test):
            problems.add("test row that is a train row as well", where, count=num_repeated)
        self.test, self.labels, self.label_splits = test, labels, splits

    def labels_of(self, rows: Ints) -> dict[str, npt.NDArray[Any]]:
        """Returns the store's arrays of these rows' labels."""
        if not self.is_multi_label:  # each row has one
            return {"labels": self.labels[rows].astype(np.int32)}
        sets = RaggedSets(
            values=self.labels.astype(np.int32),
            row_splits=self.label_splits,
            num_tokens=len(self.class_names),
        ).take(rows)
        no_labels = np.zeros(rows.shape[0], np.int32)
        return {"labels": no_labels, "label_values": sets.values, "label_splits": sets.row_splits}

    def rows_of_classes(self) -> dict[str, int]:
        """Returns the number of train and test rows together of each class."""
        used = np.repeat(self.train | self.test, np.diff(self.label_splits))
        counts = np.bincount(self.labels[used], minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def _numbered(self, labels: Ints, train_labels: Ints) -> Ints:
        """Names the train rows' classes; returns all labels as places among them, -1 for others."""
        known = set(np.unique(train_labels).tolist())
        names = _sorted([name for name, number in self._names.items() if number in known])
        if len(names) < 2:
            listed = f"the class {names[0]:.100}" if names else "no classes"
            raise InputError(
                f"{self.where} has {listed} alone to train on. Give rows of two or more."
            )
        places = np.full(len(self._names), -1)
        places[[self._names[name] for name in names]] = np.arange(len(names))
        self.class_names = names
        return places[labels]


def _num_repeated(digests: Digests, train: Bools, test: Bools) -> int:
    """Returns how many test rows have the content of a train row, empty rows not counted."""
    # A search in sorted digests: np.isin would make several more arrays of that size.
    known, asked = np.sort(digests[train]), digests[test]
    places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return int(((known[places] == asked) & (asked != 0)).sum())


def _sorted(names: list[str]) -> list[str]:
    """Returns names sorted, as numbers if all are numbers."""
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        return sorted(names)
    if np.isnan(list(numbers.values())).any():
        return sorted(names)
    return sorted(names, key=lambda name: (numbers[name], name))


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
    if (options.weighting, options.normalize) != ("binary", "none"):
        start_id = None  # TextVectorization and CategoryEncoding have no start id to weight
    idf = None
    if options.weighting == "tf_idf":
        counts = np.zeros(vocabulary.num_tokens, np.int64)

        def in_train(block: Numbered, places: slice) -> npt.NDArray[np.int64] | None:
            chosen = np.flatnonzero(rows.train[places])
            return rows_with(with_ids(block, vocabulary).take(chosen)) if chosen.size else None

        for found in spool.map(in_train):
            counts += 0 if found is None else found
        num_train = int(rows.train.sum())
        idf = frequencies_of(counts, num_train, unknown_id=vocabulary.unknown_id).tolist()
    weights: dict[str, Any] = {
        "weighting": options.weighting,
        "normalize": options.normalize,
        "idf": idf,
    }
    return replace(vocabulary, start_id=start_id, **weights)


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
    found = _merged([])
    num_passes = 1 + num_tokens // _MOST_AT_ONCE
    for number in range(num_passes):
        counted = _counted(blocks(), number, num_passes)
        found = _merged([found, counted.take(np.flatnonzero(counted.counts >= min_count))])
        found = found.take(np.lexsort((found.firsts, -found.counts))[:most])
    return [token.decode() for token in found.tokens.to_pylist()]


def _counted(blocks: Iterable[BlockCounts], number: int, num_passes: int) -> _Counts:
    merged, waiting = _merged([]), list[_Counts]()
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
            merged, waiting, num_waiting = _merged([merged, *waiting]), [], 0
    return _merged([merged, *waiting])


def _merged(parts: list[_Counts]) -> _Counts:
    """Merges counts: each token once, in the order in which they first appear."""
    if not parts:
        empty = np.zeros(0, np.int64)
        return _Counts(pyarrow.array([], pyarrow.large_binary()), empty, empty)
    tokens, counts, firsts = zip(*parts, strict=True)
    # Arrow's group_by takes seven times as long.
    found = pyarrow.concat_arrays(tokens).dictionary_encode()
    places = found.indices.to_numpy()
    first = np.zeros(len(found.dictionary), np.int64)
    first[places[::-1]] = np.concatenate(firsts)[::-1]  # the last write stays
    count = np.zeros(len(found.dictionary), np.int64)
    np.add.at(count, places, np.concatenate(counts))
    return _Counts(found.dictionary, count, first)


FILE_NAME = "build.json"  # the summary of a build, which is kept beside the data set
# Options that do not apply to rows of each kind.
_OPTIONS_OF_TEXTS: dict[Kind, tuple[str, ...]] = {
    "texts": (),
    "tokens": ("tokenizer", "ngrams"),
    "sets": ("tokenizer", "ngrams", "min_count", "hash_bits", "unknown"),
}

Progress = Callable[[int], None]  # callback that is given the number of bytes of text just read


@dataclass(frozen=True, kw_only=True)
class Built:
    """Facts about a data set that was built."""

    source: str
    note: str  # the reader's findings about the source, such as which columns it took
    train_rows: int
    test_rows: int
    test_rows_drawn: bool
    multi_label: bool
    rows_of_classes: Mapping[str, int]
    num_tokens: int
    num_ids: int  # number of ids in all rows, including repeated ones
    num_unknown: int  # number of these ids that stand for tokens outside the vocabulary
    problems: Mapping[str, int]  # number of problems of each kind
    first_problems: Mapping[str, str]  # place of the first problem of each kind

    def notes(self) -> list[str]:
        """Returns notes for the user, a sentence each."""
        found = [f"{self.source}: {self.note}"] if self.note else []
        if self.test_rows_drawn:
            found.append(
                f"{self.source}: {self.test_rows:,} of {self.train_rows + self.test_rows:,} rows "
                "were drawn to test on, the same share of each class"
            )
        return found + [
            f"{self.first_problems[kind]}: {kind}" + (f" ({count:,} in all)" if count > 1 else "")
            for kind, count in self.problems.items()
        ]


def build(
    source: Source,
    options: BuildOptions,
    folder: Path,
    *,
    unique: bool = True,
    seed: int = 0,
    progress: Progress = lambda num_bytes: None,
) -> Built:
    """Builds a data set in a new `folder`; the same source, options and seed give the same one.
    With `unique`, each id of a row is kept once; `progress` gets the number of bytes just read."""
    _check_options(source, options)
    tokenization = Tokenization(tokenizer=options.tokenizer, ngrams=options.ngrams)
    problems, rows = Problems(strict=options.strict), Rows(source)
    folder.mkdir()
    with Spool[Numbered](folder) as spool:
        # First pass: the texts become numbers, block by block.
        for block, found, digests, num_bytes in numbered_blocks(source, problems, tokenization):
            spool.add(found)
            rows.add(block, found, digests)
            progress(num_bytes)
        rows.settle(problems, test_split=options.test_split, seed=seed)
        # Second pass: words are counted in train rows alone, so test rows tell the model nothing.
        vocabulary = counted_vocabulary(rows, options, spool)
        # Third pass: the numbers become ids.
        num_ids, num_unknown = _write(rows, vocabulary, spool, folder, unique=unique)
    vocabulary.save(folder / VOCABULARY_FILE_NAME)
    built = Built(
        source=str(source.path),
        note=source.note,
        train_rows=int(rows.train.sum()),
        test_rows=int(rows.test.sum()),
        test_rows_drawn=rows.is_drawn,
        multi_label=rows.is_multi_label,
        rows_of_classes=rows.rows_of_classes(),
        num_tokens=vocabulary.num_tokens,
        num_ids=num_ids,
        num_unknown=num_unknown,
        problems=dict(problems.counts),
        first_problems=dict(problems.first),
    )
    write_json(folder / FILE_NAME, {**asdict(built), "notes": built.notes()})
    described = {
        "name": source.name,
        "num_tokens": vocabulary.num_tokens,
        "num_classes": len(rows.class_names),
        "is_unique": unique or vocabulary.is_weighted or rows.has_weights,
    }
    store.seal(folder, described, held_out_rows=built.test_rows)
    return built


def _write(
    rows: Rows, vocabulary: Vocabulary, spool: Spool[Numbered], folder: Path, *, unique: bool
) -> tuple[int, int]:
    """Writes a store's arrays, test rows first; returns the number of tokens, and of unknown ones.
    With `unique`, each id of a row is kept once; ids with weights always are."""
    has_weights = rows.has_weights or vocabulary.is_weighted

    def made(block: Numbered, places: slice) -> tuple[list[RaggedSets | None], int, int]:
        """Returns a block's test rows and train rows, its number of tokens, and of unknown ones."""
        test, train = rows.test[places], rows.train[places]
        used = test | train
        if not used.any():  # or the block has no rows
            return [None, None], 0, 0
        sets = with_ids(block, vocabulary)
        if not used.all():
            sets, test = sets.take(np.flatnonzero(used)), test[used]
        num_words = block.values.size if used.all() else int(np.diff(block.row_splits)[used].sum())
        num_unknown = int((sets.values == vocabulary.unknown_id).sum())
        counts = num_words, num_unknown + num_words - sets.nnz
        if vocabulary.start_id is not None:
            sets = _with_start(sets, vocabulary.start_id)
        if rows.has_weights:
            sets = sets.with_weights()
        sets = vocabulary.weighted(sets)
        sets = sets.unique() if unique or has_weights else sets
        return [_chosen(sets, test), _chosen(sets, ~test)], *counts

    num_tokens = num_unknown = 0
    # Rows wait in temporary files: those to test on are the first of the store.
    with Spool[RaggedSets](folder) as test_rows, Spool[RaggedSets](folder) as train_rows:
        for (test, train), num_found, num_not_known in spool.map(made):
            num_tokens, num_unknown = num_tokens + num_found, num_unknown + num_not_known
            if test is not None:
                test_rows.add(test)
            if train is not None:
                train_rows.add(train)

        spools = test_rows, train_rows
        lengths = np.concatenate([sets.lengths for spooled in spools for sets in spooled])
        for name in ("values", "weights") if has_weights else ("values",):
            parts = (getattr(sets, name) for spooled in spools for sets in spooled)
            dtype = np.int32 if name == "values" else np.float32
            store.write_array(folder / f"{name}.npy", dtype, int(lengths.sum()), parts)
    labels = rows.labels_of(np.concatenate([np.flatnonzero(rows.test), np.flatnonzero(rows.train)]))
    splits = np.concatenate([[0], np.cumsum(lengths)])
    store.write_arrays({"row_splits": splits, **labels}, folder)
    return num_tokens, num_unknown


def _chosen(sets: RaggedSets, chosen: npt.NDArray[np.bool_]) -> RaggedSets | None:
    if chosen.all():
        return sets
    return sets.take(np.flatnonzero(chosen)) if chosen.any() else None


# A function, so that no name in `made` keeps the arrays while the next ones are made of them.
def _with_start(sets: RaggedSets, start_id: int) -> RaggedSets:
    values, row_splits = starting_with(start_id, sets.values, sets.row_splits)
    return sets.derived(values=values, row_splits=row_splits)


def _check_options(source: Source, options: BuildOptions) -> None:
    usual = BuildOptions()
    chosen = [
        f"--{name.replace('_', '-')}"
        for name in _OPTIONS_OF_TEXTS[source.kind]
        if getattr(options, name) != getattr(usual, name)
    ]
    if chosen:
        which = ", which are its tokens" if source.kind == "tokens" else ""
        raise InputError(
            f"{source.path} holds {IN_WORDS[source.kind]}{which}, so {', '.join(chosen)} cannot "
            "apply. Leave it out."
        )


def notes_in(path: Path) -> list[str]:
    """Reads the notes of a build in its file."""
    content = read_json(path, remedy="Build the data set again.")
    notes = content.get("notes")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise InputError(f"{path} has no notes of a build. Build the data set again.")
    return notes
