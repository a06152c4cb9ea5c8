"""Reads the object arrays of Keras's .npz files without running anything a file may ask for.

Keras stores rows of different lengths as a pickled NumPy object array of lists. A pickle may call
any function, and a forged state makes even NumPy's own constructors read foreign memory. So no
name in the pickle resolves to the real thing: those that such an array needs get an inert stub,
which only records what it is given, and every other name is refused.

`_member` catches `Exception`: zipfile, NumPy and the unpickler raise more than a dozen types on
damaged bytes, and each of them means that the file cannot be read.
"""

import array
import contextlib
import io
import pickle
from collections.abc import Iterator
from typing import Any, BinaryIO
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

from harness.errors import InputError

_INTEGER_TYPES = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))
_STUBBED = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),  # NumPy 1
        ("numpy._core.multiarray", "_reconstruct"),  # NumPy 2
    }
)


class _Stub:
    """Stands in for an array or a dtype."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Stub]:
        if (module, name) not in _STUBBED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; nothing but lists, ints and NumPy arrays is read"
            )
        return _Stub


def read_labels(archive: ZipFile, name: str) -> npt.NDArray[Any]:
    """Member `name`.npy as a plain array, read without pickle; its values are not checked here.

    Raises:
        InputError: the member is missing, damaged, or holds objects.
    """
    with _member(archive, name) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def read_rows(archive: ZipFile, name: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Member `name`.npy, an object array of B lists of ints, as int32 [N] and lengths int64 [B].

    Raises:
        InputError: the member is missing or damaged, its pickle asks for anything but lists, ints
            and NumPy arrays (which is not done then), or a row holds anything but int32s.
    """
    with _member(archive, name) as stream:
        _skip_header(stream)
        # The state of an array: version, shape, dtype, is Fortran's order, a list or raw bytes.
        state = getattr(_RestrictedUnpickler(stream).load(), "state", None)
        rows = state[-1] if isinstance(state, tuple) and state else None
        if not isinstance(rows, list) or not rows:
            raise ValueError("it is not an array with a list of ints in each row")
    values = array.array("i")
    lengths = np.empty(len(rows), np.int64)
    for index, row in enumerate(rows):
        before = len(values)
        try:
            values.fromlist(_integers(row) if isinstance(row, _Stub) else row)
        except Exception as error:
            raise InputError(
                f"{archive.filename}: row {index} of {name} holds something other than ints of "
                f"32 bits: {error}. Correct the file."
            ) from error
        lengths[index] = len(values) - before
        # Python's ints take several times the room of the result: let each row go when it is read.
        rows[index] = None
    flat = np.frombuffer(values, np.int32) if len(values) else np.empty(0, np.int32)
    flat.flags.writeable = False
    return flat, lengths


def _integers(row: _Stub) -> list[int]:
    """Those of an array in one dimension; any exception if it is none."""
    _, (_,), dtype, _, content = row.state
    (name, *_), order = dtype.arguments, dtype.state[1]
    if name not in _INTEGER_TYPES:
        raise TypeError(f"an array of {name}")
    return np.frombuffer(content, np.dtype(name).newbyteorder(order)).tolist()


@contextlib.contextmanager
def _member(archive: ZipFile, name: str) -> Iterator[BinaryIO]:
    try:
        yield io.BytesIO(archive.read(f"{name}.npy"))
    except Exception as error:
        raise InputError(
            f"{archive.filename}: member {name}.npy cannot be read: {error}. The file is "
            "truncated, damaged, or not in the format of Keras's imdb.npz; get it again."
        ) from error


def _skip_header(stream: BinaryIO) -> None:
    version = np.lib.format.read_magic(stream)
    # Version 3 differs from 2 in the header's encoding alone, and NumPy has no reader for it.
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    _, _, dtype = read_header(stream)
    if not dtype.hasobject:
        raise ValueError(f"it holds {dtype}, not lists")
