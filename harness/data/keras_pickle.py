"""Reads the object arrays of Keras's .npz files without running anything a file may ask for.

Keras stores rows of different lengths as a pickled NumPy object array of lists. A pickle may call
any function, and a forged state makes even NumPy's own constructors read foreign memory. So no
name in the pickle resolves to the real thing: the three that such an array needs get inert
stand-ins, which only record what they are given, and every other name is refused.

The readers of a file catch `Exception`: zipfile, NumPy and the unpickler raise more than a dozen
types on damaged bytes, and each of them means that the file cannot be read.
"""

import array
import io
import pickle
from typing import Any, BinaryIO
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

from harness.errors import InputError

_INTEGER_TYPES = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))


class _PickledDtype:
    """Stands in for `numpy.dtype`; knows integers and objects."""

    __slots__ = ("byte_order", "name")

    def __init__(self, name: str, align: bool = False, copy: bool = True) -> None:
        if name not in _INTEGER_TYPES and name not in ("O8", "O4", "O"):
            raise pickle.UnpicklingError(f"an array of dtype {name!r}")
        self.name = name
        self.byte_order = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, byte order, subarray, names, fields, size, alignment, flags)
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("an array of a compound dtype")
        self.byte_order = state[1]


class _PickledArray:
    """Stands in for the array that `_reconstruct` makes and `__setstate__` fills."""

    __slots__ = ("content", "dtype")

    def __init__(self, kind: str, shape: tuple[int, ...], type_code: bytes | str) -> None:
        if kind != "ndarray":
            raise pickle.UnpicklingError("an array of a class other than numpy.ndarray")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, shape, dtype, is Fortran's order, a list of objects or raw bytes)
        _, shape, dtype, _, content = state
        if not isinstance(dtype, _PickledDtype):
            raise pickle.UnpicklingError("an array without a dtype")
        if len(shape) != 1:
            raise pickle.UnpicklingError(f"an array of shape {shape}")
        if not isinstance(content, list if dtype.name.startswith("O") else bytes):
            raise pickle.UnpicklingError(f"an array of {dtype.name} with other content")
        self.dtype = dtype
        self.content = content

    def integers(self) -> list[int]:
        if not isinstance(self.content, bytes):
            raise TypeError("an array of objects")
        order = "<" if self.dtype.byte_order == "|" else self.dtype.byte_order
        return np.frombuffer(self.content, order + self.dtype.name).tolist()


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",  # Never called, only handed to _reconstruct.
    ("numpy", "dtype"): _PickledDtype,
    ("numpy.core.multiarray", "_reconstruct"): _PickledArray,  # NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _PickledArray,  # NumPy 2
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; nothing but lists, ints and NumPy arrays is read"
            )
        return stand_in


def read_labels(archive: ZipFile, name: str) -> npt.NDArray[Any]:
    """Member `name`.npy as a plain array, read without pickle; its values are not checked here.

    Raises:
        InputError: the member is missing, damaged, or holds objects.
    """
    stream = _member(archive, name)
    try:
        return np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:
        raise _unreadable(archive, name, error) from error


def read_rows(archive: ZipFile, name: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Member `name`.npy, an object array of B lists of ints, as int32 [N] and lengths int64 [B].

    Raises:
        InputError: the member is missing or damaged, its pickle asks for anything but lists, ints
            and NumPy arrays (which is not done then), or a row holds anything but int32s.
    """
    stream = _member(archive, name)
    try:
        _skip_header(stream)
        content = _RestrictedUnpickler(stream).load()
        rows = content.content if isinstance(content, _PickledArray) else None
    except Exception as error:
        raise _unreadable(archive, name, error) from error
    if not isinstance(rows, list) or len(rows) == 0:
        raise InputError(
            f"{archive.filename}: {name} is not an array with a list of ints in each row. "
            "Give an imdb.npz in Keras's format."
        )
    values = array.array("i")
    lengths = np.empty(len(rows), np.int64)
    for index, row in enumerate(rows):
        before = len(values)
        try:
            if isinstance(row, _PickledArray):
                row = row.integers()
            values.fromlist(row)
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
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


def _member(archive: ZipFile, name: str) -> BinaryIO:
    try:
        return io.BytesIO(archive.read(f"{name}.npy"))
    except KeyError as error:
        raise InputError(
            f"{archive.filename} has no member {name}.npy, but {archive.namelist()}. "
            "Give an imdb.npz in Keras's format."
        ) from error
    except Exception as error:
        raise _unreadable(archive, name, error) from error


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


def _unreadable(archive: ZipFile, name: str, error: Exception) -> InputError:
    return InputError(
        f"{archive.filename}: member {name}.npy cannot be read: {error}. "
        "The file is truncated, damaged or not to be trusted; get it again."
    )
