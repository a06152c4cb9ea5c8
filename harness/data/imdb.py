"""Keras's IMDB reviews: finds, downloads and reads their file."""

import array
import hashlib
import http.client
import io
import os
import pickle
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.base.archive import MAX_HEADER_BYTES, Archive, array_header
from harness.base.checks import INT32_MAX, require
from harness.base.errors import InputError
from harness.base.reading import MAX_UNPACKED_BYTES, opened
from harness.data.options import INDEX_FROM, START_ID, UNKNOWN_ID, ImdbOptions
from harness.data.ragged import RaggedSets, starting_with
from kernels.files import replacing

# The address and SHA-256 in keras.datasets.imdb of Keras 3.15.
_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/imdb.npz"
_SHA256 = "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"
_TIMEOUT_SECONDS = 30
_KERAS_SEED = 113  # seed by which Keras shuffles each part of a file
_REMEDY = "Give an imdb.npz in Keras's format; to allow more bytes, raise --max-data-bytes."
_STUBBED = {
    *(("numpy", "ndarray"), ("numpy", "dtype")),
    ("numpy.core.multiarray", "_reconstruct"),  # NumPy 1
    ("numpy._core.multiarray", "_reconstruct"),  # NumPy 2
}


def cached_file(name: str) -> Path:
    return Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets" / name


def imdb_file() -> Path:
    """Returns the path of Keras's cached imdb.npz; downloads it first if it is absent."""
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
    """Returns all rows of an npz file as keras.datasets.imdb.load_data does, test rows first."""
    parts = _read_parts(path, max_bytes)
    # Keras shuffles both parts with one stream of random numbers, train first.
    rng = np.random.RandomState(_KERAS_SEED)
    train, test = (part.take(rng.permutation(part.num_rows)) for part in parts)
    if options.split == "standard":
        rows, num_test_rows = [test, train], test.num_rows
    else:
        rows, num_test_rows = [train, test], options.held_out_rows
        num_rows = train.num_rows + test.num_rows
        require(
            num_test_rows < num_rows,
            f"{path} has {num_rows} rows, too few to hold out {num_test_rows}. "
            f"Set --held-out-rows to {num_rows - 1} or less, or use --split=standard.",
        )
    sets = RaggedSets.concatenate(rows, name=path.stem)
    # Ranks become ids.
    highest = sets.num_tokens - 1
    ok = highest < INT32_MAX - INDEX_FROM
    require(ok, f"{path}: the rank {highest} is too high. Correct it.")
    sets = sets.derived(values=sets.values + np.int32(INDEX_FROM))
    sets = starting_with(START_ID, sets)
    num_words = options.num_words or int(sets.values.max())  # None: the highest id, as in Keras
    values = np.where(sets.values < num_words, sets.values, np.int32(UNKNOWN_ID))
    num_tokens = max(num_words, UNKNOWN_ID + 1)
    return sets.derived(values=values, num_tokens=num_tokens), num_test_rows


def _read_parts(path: Path, max_bytes: int) -> list[RaggedSets]:
    parts = []
    with Archive(path, what="an .npz file", remedy=_REMEDY, max_bytes=max_bytes) as archive:
        for part in ("train", "test"):
            ranks, row_splits = read_rows(archive, f"x_{part}")
            labels = archive.read_array(f"y_{part}")
            known = labels.size and labels.dtype.kind in "iu"
            sets = RaggedSets(
                values=ranks,
                row_splits=row_splits,
                labels=labels,
                num_tokens=int(ranks.max(initial=0)) + 1,
                name=f"{path}, part {part}",
                num_classes=max(2, int(labels.max()) + 1) if known else 2,
            )
            require(
                sets.labels.dtype == np.int32,
                f"{sets.name}: its labels are numbers that are no classes. Give class numbers as "
                "integers, or train a regression in Python, with harness.RaggedSets.",
            )
            parts.append(sets)
    num_tokens = max(part.num_tokens for part in parts)  # one part may lack the highest
    num_classes = max(part.num_classes for part in parts)
    return [replace(part, num_tokens=num_tokens, num_classes=num_classes) for part in parts]


class _Stub:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _RestrictedUnpickler(pickle.Unpickler):
    """Keras stores rows as a pickled NumPy object array of lists. A pickle may call any function,
    and a forged state makes even NumPy's own constructors read foreign memory. So the names that
    such an array needs get an inert stub, and every other name is refused. No header tells how much
    memory a pickle takes: six bytes may ask for 32 GB. SECURITY.md says so."""

    def find_class(self, module: str, name: str) -> type[_Stub]:
        if (module, name) not in _STUBBED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; nothing but lists, ints and NumPy arrays is read"
            )
        return _Stub


def read_rows(archive: Archive, name: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Reads the lists in `name`.npy: all ints, int32 [N], and row boundaries, int64 [B + 1]."""
    content = archive.read(f"{name}.npy")
    with archive.damage():
        _, _, dtype, start = array_header(content[:MAX_HEADER_BYTES])
        if not dtype.hasobject:
            raise ValueError(f"{name} holds {dtype}, not lists")
        stream = io.BytesIO(content)
        stream.seek(start)
        pickled = _RestrictedUnpickler(stream).load()
        # The state of an array: version, shape, dtype, is Fortran's order, a list or raw bytes.
        state = getattr(pickled, "state", None)
        rows = state[-1] if isinstance(state, tuple) and state else None
        if not isinstance(rows, list) or not rows:
            raise ValueError(f"{name} is not an array with a list of ints in each row")
    values = array.array("i")
    row_splits = np.zeros(len(rows) + 1, np.int64)
    for index, row in enumerate(rows):
        try:
            values.fromlist(row)
            if bool in set(map(type, row)):  # an array takes them for 0 and 1
                raise TypeError("True or False")
        except Exception as error:
            raise InputError(
                f"{archive.path}: row {index} of {name} is no list of ints of 32 bits: {error}. "
                "Correct the file."
            ) from error
        row_splits[index + 1] = len(values)
        # Python's ints take several times the result's memory: release each row once it is read.
        rows[index] = None
    return np.asarray(memoryview(values).toreadonly()), row_splits
