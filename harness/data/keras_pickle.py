"""Reads the object arrays of Keras's .npz files without running anything that a file asks for.
Keras stores rows as a pickled NumPy object array of lists. A pickle may call any function, and a
forged state makes even NumPy's own constructors read foreign memory. So the names that such an
array needs get an inert stub, which only records its arguments, and every other name is refused. No
header tells how much memory a pickle takes: six bytes may ask for 32 GB. SECURITY.md says so."""

import array
import io
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.base.errors import InputError
from harness.data.archive import MAX_HEADER_BYTES, Archive, array_header

_INTEGER_TYPES = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))
_STUBBED = {
    *(("numpy", "ndarray"), ("numpy", "dtype")),
    ("numpy.core.multiarray", "_reconstruct"),  # NumPy 1
    ("numpy._core.multiarray", "_reconstruct"),  # NumPy 2
}


class _Stub:
    """Stands in for an array or a dtype, and records its arguments and state."""

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


def read_rows(archive: Archive, name: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Reads the lists in `name`.npy: all ints, int32 [N], and the lists' lengths, int64 [B]."""
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
    lengths = np.empty(len(rows), np.int64)
    for index, row in enumerate(rows):
        before = len(values)
        try:
            integers = _integers(row) if isinstance(row, _Stub) else row
            if bool in set(map(type, integers)):  # an array takes them for 0 and 1
                raise TypeError("True or False")
            values.fromlist(integers)
        except Exception as error:
            raise InputError(
                f"{archive.path}: row {index} of {name} holds something other than ints of "
                f"32 bits: {error}. Correct the file."
            ) from error
        lengths[index] = len(values) - before
        # Python's ints take several times the result's memory: release each row once it is read.
        rows[index] = None
    flat = np.frombuffer(values, np.int32) if len(values) else np.empty(0, np.int32)
    flat.flags.writeable = False
    return flat, lengths


def _integers(row: _Stub) -> list[int]:
    """Returns the integers of a one-dimensional array; raises any exception if it is none."""
    _, (_,), dtype, _, content = row.state
    (name, *_), order = dtype.arguments, dtype.state[1]
    if name not in _INTEGER_TYPES:
        raise TypeError(f"an array of {name}")
    return np.frombuffer(content, np.dtype(name).newbyteorder(order)).tolist()
