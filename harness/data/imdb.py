"""Reads IMDB reviews in Keras's npz format into `RaggedSets`, as keras.datasets.imdb gives them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from harness.config import ImdbOptions
from harness.data import keras_pickle
from harness.data.ragged import Int32Array, Int64Array, RaggedSets
from harness.errors import InputError

_INT32_MAX = np.iinfo(np.int32).max


def load_imdb(
    path: str | Path, options: ImdbOptions | None = None
) -> tuple[RaggedSets, RaggedSets]:
    """The train and test rows of an npz file in Keras's format, split as `options` say.

    Args:
        path: the file, with members x_train, y_train, x_test and y_test.
        options: the conventions to apply.

    Raises:
        InputError: no such file, not an npz, truncated, a member missing or not of lists of ints,
            or no row left.
    """
    options = options or ImdbOptions()
    train, test = load_parts(path, options)
    if options.split == "standard":
        return train, test
    merged = RaggedSets.concatenate([train, test], name=Path(path).stem)
    if options.held_out_rows >= merged.num_rows:
        raise InputError(
            f"{path} has {merged.num_rows} rows, too few to hold out {options.held_out_rows}. "
            f"Set --held-out-rows to {merged.num_rows - 1} or less, or use --split standard."
        )
    held_out, rest = merged.split(options.held_out_rows)
    return rest, held_out


def load_parts(path: str | Path, options: ImdbOptions) -> tuple[RaggedSets, RaggedSets]:
    """What keras.datasets.imdb.load_data gives: the same ids, rows and labels in the same order."""
    path = Path(path)
    # One stream of random numbers shuffles both parts, train first.
    rng = np.random.RandomState(options.shuffle_seed)
    train, test = (_start_and_offset(_shuffled(raw, rng), options) for raw in _read_parts(path))
    # Keras takes the highest id of both parts as the limit when it is given none.
    num_words = options.num_words or max(int(part.values.max(initial=1)) for part in (train, test))
    # A part may lack the highest class.
    num_classes = max(train.num_classes, test.num_classes)
    train, test = (replace(part, num_classes=num_classes) for part in (train, test))
    return (
        _limit_words(train, num_words, options, path.stem),
        _limit_words(test, num_words, options, path.stem),
    )


def _read_parts(path: Path) -> Iterator[RaggedSets]:
    """The file's train part, then its test part, as word ranks; one at a time in memory."""
    try:
        archive = ZipFile(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Give an imdb.npz in Keras's format.") from error
    except (BadZipFile, OSError) as error:
        raise InputError(
            f"{path} is truncated or not an .npz file: {error}. Give an imdb.npz in Keras's format."
        ) from error
    with archive:
        for part in ("train", "test"):
            ranks, lengths = keras_pickle.read_rows(archive, f"x_{part}")
            labels = keras_pickle.read_labels(archive, f"y_{part}")
            known = labels.size and labels.dtype.kind in "iu"
            yield RaggedSets(
                values=ranks,
                row_splits=np.concatenate([[0], np.cumsum(lengths)]),
                labels=labels,
                num_tokens=int(ranks.max(initial=0)) + 1,
                name=f"{path}, part {part}",
                num_classes=max(2, int(labels.max()) + 1) if known else 2,
            )


def _shuffled(sets: RaggedSets, rng: np.random.RandomState) -> RaggedSets:
    order = np.arange(sets.num_rows)
    rng.shuffle(order)
    return sets.take(order)


def _start_and_offset(sets: RaggedSets, options: ImdbOptions) -> RaggedSets:
    """Adds the start id and the offset, then drops rows of `maxlen` ids and more."""
    added = options.start_char is not None
    if options.maxlen is not None:
        kept = np.flatnonzero(sets.lengths + added < options.maxlen)
        if not kept.size:
            raise InputError(
                f"{sets.name}: no row is shorter than maxlen {options.maxlen}, the shortest has "
                f"{sets.lengths.min() + added} ids. Raise maxlen."
            )
        sets = sets.take(kept)
    if sets.num_tokens + options.index_from > _INT32_MAX:
        raise InputError(
            f"{sets.name}: rank {sets.num_tokens - 1} with index_from {options.index_from} passes "
            "int32. Lower index_from."
        )
    values = sets.values + np.int32(options.index_from)
    row_splits = sets.row_splits
    if options.start_char is not None:
        row_splits = row_splits + np.arange(row_splits.shape[0])
        values = _with_starts(values, row_splits, options.start_char)
    num_tokens = max(sets.num_tokens + options.index_from, (options.start_char or 0) + 1)
    return _rebuilt(sets, values, row_splits, num_tokens, sets.name)


def _with_starts(words: Int32Array, row_splits: Int64Array, start_char: int) -> Int32Array:
    values = np.empty(row_splits[-1], np.int32)
    is_word = np.ones(values.shape[0], np.bool_)
    is_word[row_splits[:-1]] = False
    values[is_word] = words
    values[row_splits[:-1]] = start_char
    return values


def _limit_words(sets: RaggedSets, num_words: int, options: ImdbOptions, name: str) -> RaggedSets:
    """Puts `oov_char` for ids outside [skip_top, num_words), or drops them if it is None."""
    known = (sets.values >= options.skip_top) & (sets.values < num_words)
    if options.oov_char is None:
        kept_before = np.concatenate([[0], np.cumsum(known)])
        row_splits = kept_before[sets.row_splits]
        return _rebuilt(sets, sets.values[known], row_splits, num_words, name)
    values = np.where(known, sets.values, np.int32(options.oov_char))
    return _rebuilt(sets, values, sets.row_splits, max(num_words, options.oov_char + 1), name)


def _rebuilt(
    sets: RaggedSets, values: Int32Array, row_splits: Int64Array, num_tokens: int, name: str
) -> RaggedSets:
    return RaggedSets(
        values=values,
        row_splits=row_splits,
        labels=sets.labels,
        num_tokens=num_tokens,
        name=name,
        num_classes=sets.num_classes,
    )
