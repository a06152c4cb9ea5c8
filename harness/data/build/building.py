"""Builds a data set from a source in three passes, none of which holds all rows in memory.

1. Numbers the tokens of each block of rows; notes the rows' parts, labels and digests.
2. Draws test rows if the source has none; counts the tokens of the train rows.
3. Turns tokens into ids and writes them to a store, test rows first.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.base.checks import flag_of
from harness.base.decoding import changed
from harness.base.errors import InputError
from harness.base.files import write_json
from harness.data import store
from harness.data.build.counting import counted_vocabulary
from harness.data.build.numbering import Spool, numbered_blocks
from harness.data.build.rows import Rows
from harness.data.options import BuildOptions
from harness.data.ragged import RaggedSets, starting_with
from harness.data.readers.records import IN_WORDS, Kind, Problems, Source
from harness.data.tokens import Numbered, Tokenization
from harness.data.vocabulary import FILE_NAME as VOCABULARY_FILE_NAME
from harness.data.vocabulary import Vocabulary

FILE_NAME = "build.json"  # the summary of a build, which is kept beside the data set
# Options that do not apply to rows of each kind.
_OPTIONS_OF_TEXTS: dict[Kind, tuple[str, ...]] = {
    "texts": (),
    "tokens": ("tokenizer", "ngrams"),
    "sets": ("tokenizer", "ngrams", "min_count", "hash_bits", "unknown"),
}

_MISSING = {"nan", "NaN", "None", "NULL", "null", "N/A", "<NA>"}  # as programs write missing labels
# A language without spaces between words has sentences for words, of three bytes a character. With
# spaces, twelve letters of three bytes would be long for the average word.
_MAX_WORD_BYTES = 36

Progress = Callable[[int], None]  # callback that is given the number of bytes of text just read


def build(
    source: Source,
    options: BuildOptions,
    folder: Path,
    *,
    unique: bool = True,
    seed: int = 0,
    known: Vocabulary | None = None,
    progress: Progress = lambda num_bytes: None,
) -> dict[str, Any]:
    """Builds a data set in a new `folder`; the same source, options and seed give the same one.
    With `unique`, each id of a row is kept once; a `known` vocabulary takes the place of that of
    the train rows; `progress` gets the number of bytes just read. Returns the summary."""
    _check_options(source, options)
    tokenization = Tokenization(tokenizer=options.tokenizer, ngrams=options.ngrams)
    if known is not None:
        if (known.tokenizer == "list") != (source.kind == "tokens"):
            raise InputError(
                f"{source.path} holds {IN_WORDS[source.kind]}, other than the model's data. Give "
                "rows of one form."
            )
        tokenization = known.tokenization
    problems, rows = Problems(strict=options.strict), Rows(source)
    folder.mkdir()
    text_bytes = 0
    with Spool[Numbered](folder) as spool:
        # First pass: the texts become numbers, block by block.
        for block, found, digests, num_bytes in numbered_blocks(source, problems, tokenization):
            spool.add(found)
            rows.add(block, found, digests)
            text_bytes += num_bytes
            progress(num_bytes)
        names = known.class_names if known else ()
        rows.settle(problems, test_split=options.test_split, seed=seed, class_names=names)
        # Second pass: words are counted in train rows alone, so test rows tell the model nothing.
        vocabulary = known or counted_vocabulary(rows, options, spool)
        # Third pass: the numbers become ids.
        num_ids, num_unknown = _write(rows, vocabulary, spool, folder, unique=unique)
    vocabulary.save(folder / VOCABULARY_FILE_NAME)
    num_train, num_test = int(rows.train.sum()), int(rows.test.sum())
    summary = {
        "source": str(source.path),
        "note": source.note,
        "train_rows": num_train,
        "test_rows": num_test,
        "test_rows_drawn": rows.is_drawn,
        "multi_label": rows.is_multi_label,
        "rows_of_classes": rows.rows_of_classes(),
        "num_tokens": vocabulary.num_tokens,
        "num_ids": num_ids,  # in all rows, including repeated ones
        "num_unknown": num_unknown,  # those of them that stand for tokens outside the vocabulary
        "problems": dict(problems.counts),
        "first_problems": dict(problems.first),
    }
    notes = [f"{source.path}: {source.note}"] if source.note else []
    if rows.is_drawn:
        notes.append(
            f"{source.path}: {num_test:,} of {num_train + num_test:,} rows were drawn to test on, "
            "the same share of each class"
        )
    for kind, count in problems.counts.items():
        in_all = f" ({count:,} in all)" if count > 1 else ""
        notes.append(f"{problems.first[kind]}: {kind}{in_all}")
    notes += [f"{source.path}: {doubt}" for doubt in _doubts_of(rows.class_names)]
    if source.kind == "texts" and text_bytes > _MAX_WORD_BYTES * num_ids:
        notes.append(
            f"{source.path}: words have more than {_MAX_WORD_BYTES} bytes on average. Where a "
            "language has no spaces between words, put some there, for predict as well"
        )
    write_json(folder / FILE_NAME, summary := {**summary, "notes": notes})
    described = {
        "name": source.name,
        "num_tokens": vocabulary.num_tokens,
        "num_classes": len(rows.class_names),
        "is_unique": unique or vocabulary.is_weighted or rows.has_weights,
    }
    store.seal(folder, described, held_out_rows=num_test)
    return summary


def _doubts_of(names: Sequence[str]) -> Iterator[str]:
    """Describes names of classes that may mean other than a class each."""
    known, in_lower_case = set(names), Counter(name.lower() for name in names)
    for mark in "|,;":
        joined = (name for name in names if mark in name and known.issuperset(name.split(mark)))
        if (name := next(joined, None)) is not None:
            yield (
                f"the label {name:.40} is taken for one class. If it stands for several, set "
                f"--label-separator '{mark}'"
            )
    for name in sorted(known & _MISSING):
        yield f"the label {name} is taken for a class. Leave it empty where a label is missing"
    if alike := [name for name in names if in_lower_case[name.lower()] > 1]:
        yield f"labels that differ in case are different classes: {', '.join(alike):.100}"


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
        sets = vocabulary.sets_of(block)
        if not used.all():
            sets, test = sets[used], test[used]
        num_words = block.values.size if used.all() else int(np.diff(block.row_splits)[used].sum())
        num_unknown = int((sets.values == vocabulary.unknown_id).sum())
        counts = num_words, num_unknown + num_words - sets.nnz
        if vocabulary.start_id is not None:
            sets = starting_with(vocabulary.start_id, sets)
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
            store.write_array(folder, name, int(lengths.sum()), parts)
    labels = rows.labels_of(np.concatenate([np.flatnonzero(rows.test), np.flatnonzero(rows.train)]))
    splits = np.concatenate([[0], np.cumsum(lengths)])
    store.write_arrays({"row_splits": splits, **labels}, folder)
    return num_tokens, num_unknown


def _chosen(sets: RaggedSets, chosen: npt.NDArray[np.bool_]) -> RaggedSets | None:
    return sets if chosen.all() else sets[chosen] if chosen.any() else None


def _check_options(source: Source, options: BuildOptions) -> None:
    of_texts = _OPTIONS_OF_TEXTS[source.kind]
    if chosen := [flag_of(name) for name in changed(options) if name in of_texts]:
        which = ", which are its tokens" if source.kind == "tokens" else ""
        raise InputError(
            f"{source.path} holds {IN_WORDS[source.kind]}{which}, so {', '.join(chosen)} cannot "
            "apply. Leave it out."
        )
