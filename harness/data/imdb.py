"""Keras's IMDB reviews and Reuters newswires: finds, downloads and reads their files."""

import hashlib
import http.client
import os
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.base.checks import INT32_MAX, require
from harness.base.errors import InputError
from harness.base.reading import MAX_UNPACKED_BYTES, opened
from harness.data import keras_pickle
from harness.data.archive import Archive
from harness.data.options import ImdbOptions
from harness.data.ragged import RaggedSets
from kernels.files import replacing

# The address and SHA-256 in keras.datasets.imdb of Keras 3.15.
_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/imdb.npz"
_SHA256 = "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"
_TIMEOUT_SECONDS = 30
_REUTERS_TEST_SHARE = 0.2
"""Share of test rows, as keras.datasets.reuters.load_data has by default."""
_REMEDY = "Give an imdb.npz in Keras's format; to allow more bytes, raise --max-data-bytes."


def cached_file(name: str) -> Path:
    """Returns Keras's path of the data set file `name`, in $KERAS_HOME or ~/.keras."""
    return Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets" / name


def imdb_file() -> Path:
    """Returns the path of Keras's cached imdb.npz; downloads it first if it is absent.

    Raises:
        InputError: if it is absent and cannot be downloaded, or is another file; the message names
            the ways out.
    """
    path = cached_file("imdb.npz")
    if path.exists():
        remedy = f"Remove it to have it downloaded again, or use it as it is with --data {path}."
        with opened(path, remedy=remedy) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        require(
            found == _SHA256,
            f"{path} is not Keras's imdb.npz: its SHA-256 is {found}, not {_SHA256}. {remedy}",
        )
        return path
    print(f"note: downloading {_URL} to {path}", file=sys.stderr)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(_URL, timeout=_TIMEOUT_SECONDS) as response:
            content = response.read()
        if (found := hashlib.sha256(content).hexdigest()) != _SHA256:
            raise OSError(f"its SHA-256 is {found}, not {_SHA256}")
        with replacing(path) as beside:
            beside.write_bytes(content)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"No imdb.npz at {path}, and it cannot be downloaded from {_URL}: {error}. "
            f"Put imdb.npz at {path}, or pass --data path/to/imdb.npz, or use --data synthetic."
        ) from error
    return path


def load_imdb(
    path: Path, options: ImdbOptions, *, max_bytes: int = MAX_UNPACKED_BYTES
) -> tuple[RaggedSets, int]:
    """Returns the rows of an npz file in Keras's format, as keras.datasets.imdb.load_data does.

    Args:
        path: the file, with members x_train, y_train, x_test and y_test; or with x and y, as
            Keras's reuters.npz.
        options: the conventions to apply.
        max_bytes: limit of the file's unpacked size.

    Returns:
        All rows, test rows first, and the number of test rows. With `split="tutorial"` the rows are
        the file's train part, then its test part; with `split="standard"` the test rows are the
        file's test part; in a file with one part they are its last fifth.

    Raises:
        InputError: if there is no such file, it is truncated or no npz, a member is missing or does
            not hold lists of ints, or no row is left.
    """
    parts = _read_parts(path, max_bytes)
    # Keras shuffles both parts with one stream of random numbers, train first.
    rng = np.random.RandomState(options.shuffle_seed)
    shuffled = [_shuffled(part, rng, options) for part in parts]
    if len(parts) == 1:  # as keras.datasets.reuters.load_data splits its one part
        rows = shuffled[0]
        usual = ImdbOptions()
        if (options.split, options.held_out_rows) != (usual.split, usual.held_out_rows):
            raise InputError(
                f"{path} has one part, as reuters.npz, whose last fifth is for testing. Leave out "
                "--split and --held-out-rows."
            )
        train, test = rows.split(int(rows.num_rows * (1 - _REUTERS_TEST_SHARE)))
        rows = RaggedSets.concatenate([test, train], name=path.stem)
        return _with_conventions(rows, options, path), test.num_rows
    train, test = shuffled
    if options.split == "standard":
        rows = RaggedSets.concatenate([test, train], name=path.stem)
        return _with_conventions(rows, options, path), test.num_rows
    rows = RaggedSets.concatenate([train, test], name=path.stem)
    if options.held_out_rows >= rows.num_rows:
        raise InputError(
            f"{path} has {rows.num_rows} rows, too few to hold out {options.held_out_rows}. "
            f"Set --held-out-rows to {rows.num_rows - 1} or less, or use --split standard."
        )
    return _with_conventions(rows, options, path), options.held_out_rows


def _read_parts(path: Path, max_bytes: int) -> list[RaggedSets]:
    """Returns the file's train part and test part, or its only part, as word ranks."""
    parts = []
    with Archive(path, what="an .npz file", remedy=_REMEDY, max_bytes=max_bytes) as archive:
        endings = [""] if {"x.npy", "y.npy"} <= set(archive.names) else ["_train", "_test"]
        for ending in endings:
            ranks, lengths = keras_pickle.read_rows(archive, f"x{ending}")
            labels = archive.read_array(f"y{ending}")
            known = labels.size and labels.dtype.kind in "iu"
            parts.append(
                RaggedSets(
                    values=ranks,
                    row_splits=np.concatenate([[0], np.cumsum(lengths)]),
                    labels=labels,
                    num_tokens=int(ranks.max(initial=0)) + 1,
                    name=f"{path}, part {ending[1:]}" if ending else str(path),
                    num_classes=max(2, int(labels.max()) + 1) if known else 2,
                )
            )
            require(
                parts[-1].labels.dtype == np.int32,
                f"{parts[-1].name}: its labels are numbers that are no classes. Give class numbers "
                "as integers, or train a regression in Python, with harness.RaggedSets.",
            )
    # One part may lack the highest rank or class.
    num_tokens = max(part.num_tokens for part in parts)
    num_classes = max(part.num_classes for part in parts)
    return [replace(part, num_tokens=num_tokens, num_classes=num_classes) for part in parts]


def _shuffled(sets: RaggedSets, rng: np.random.RandomState, options: ImdbOptions) -> RaggedSets:
    """Shuffles the rows and leaves out those of `maxlen` or more ids."""
    order = np.arange(sets.num_rows)
    rng.shuffle(order)
    if options.maxlen is not None:
        lengths = sets.lengths + (options.start_char is not None)
        order = order[lengths[order] < options.maxlen]
        if not order.size:
            raise InputError(
                f"{sets.name}: no row is shorter than maxlen {options.maxlen}, the shortest has "
                f"{lengths.min()} ids. Raise maxlen."
            )
    return sets.take(order)


def _with_conventions(sets: RaggedSets, options: ImdbOptions, path: Path) -> RaggedSets:
    """Turns ranks into ids: adds the offset and start ids, replaces or drops ids out of range."""
    if sets.num_tokens + options.index_from > INT32_MAX:
        raise InputError(
            f"{path}: rank {sets.num_tokens - 1} with index_from {options.index_from} exceeds "
            "int32. Lower index_from."
        )
    values = sets.values + np.int32(options.index_from)
    row_splits = sets.row_splits
    if options.start_char is not None:
        values = np.insert(values, row_splits[:-1], options.start_char)
        row_splits = row_splits + np.arange(row_splits.shape[0])
    # None means the highest id as the limit, as in Keras.
    num_tokens = num_words = options.num_words or int(values.max(initial=1))
    known = (values >= options.skip_top) & (values < num_words)
    if options.oov_char is None:
        row_splits = np.concatenate([[0], np.cumsum(known)])[row_splits]
        values = values[known]
    else:
        values = np.where(known, values, np.int32(options.oov_char))
        num_tokens = max(num_words, options.oov_char + 1)
    return RaggedSets(
        values=values,
        row_splits=row_splits,
        labels=sets.labels,
        num_tokens=num_tokens,
        name=sets.name,
        num_classes=sets.num_classes,
    )
