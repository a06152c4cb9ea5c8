"""The checks of `RaggedSets`; each raises an `InputError` with fact, values and remedy."""

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.base.checks import require
from harness.base.errors import InputError

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.integer[Any]]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


def checked_integers(name: str, part: str, array: npt.ArrayLike) -> Integers:
    """Checks that an array holds integers [N], of any width; returns it."""
    array = _one_dimensional(name, part, array)
    kind = array.dtype.kind
    require(kind in "iu", f"{name}: {part} has dtype {array.dtype}. It must hold integers.")
    return array


def checked_row_splits(name: str, row_splits: npt.ArrayLike, num_values: int) -> Int64Array:
    """Returns row splits [B + 1] as read-only int64: from 0 to num_values, never falling."""
    array = checked_integers(name, "row_splits", row_splits)
    require(
        array.shape[0] >= 2,
        f"{name}: zero rows (row_splits has {array.shape[0]} entries, rows + 1 are needed). "
        "Give at least one row.",
    )
    falls = np.flatnonzero(array[1:] < array[:-1])  # a difference of unsigned integers wraps
    if falls.size:
        row = falls[0]
        raise InputError(
            f"{name}: row_splits is not monotonic: row {row} starts at {array[row]} and ends at "
            f"{array[row + 1]}. Each entry must be at least the one before."
        )
    require(
        array[0] == 0 and array[-1] == num_values,
        f"{name}: row_splits goes from {array[0]} to {array[-1]}. It must go from 0 to "
        f"{num_values}, the number of values.",
    )
    return frozen(array, np.int64)


def checked_ids(name: str, values: Integers, row_splits: Int64Array, num_tokens: int) -> Int32Array:
    """Checks that every id is in [0, num_tokens); returns the ids as read-only int32."""
    if values.size and (values.min() < 0 or values.max() >= num_tokens):
        wrong = np.flatnonzero((values < 0) | (values >= num_tokens))
        row = np.searchsorted(row_splits, wrong[0], "right") - 1
        raise InputError(
            f"{name}: row {row} holds id {values[wrong[0]]}, outside [0, {num_tokens}) "
            f"({wrong.size} such ids, from {values.min()} to {values.max()}). "
            "Correct the ids, or raise num_tokens above the highest."
        )
    return frozen(values, np.int32)


def checked_labels(name: str, labels: npt.ArrayLike, num_rows: int, num_classes: int) -> Array:
    """Returns labels [B]: whole numbers in [0, num_classes) as read-only int32, and other finite
    floats, which are no classes, as read-only float32."""
    array = _one_dimensional(name, "labels", labels)
    require(
        array.shape[0] == num_rows,
        f"{name}: {array.shape[0]} labels for {num_rows} rows. Give one label for each row.",
    )
    if array.dtype.kind != "f":
        checked_integers(name, "labels", array)
    wrong = np.flatnonzero((array != np.floor(array)) | (array < 0) | (array >= num_classes))
    if wrong.size and array.dtype.kind == "f":
        finite = finite_in_float32(array)
        if finite.all():
            return frozen(array, np.float32)
        wrong = np.flatnonzero(~finite)
    if wrong.size:
        raise InputError(
            f"{name}: label {array[wrong[0]]} of row {wrong[0]} is not a whole number in "
            f"[0, {num_classes}) ({wrong.size} such labels). Correct the labels, or raise "
            "num_classes. Numbers for a regression must be finite floats."
        )
    return frozen(array, np.int32)


def checked_weights(name: str, weights: npt.ArrayLike, row_splits: Int64Array) -> Float32Array:
    """Checks that weights [N] are real and finite in float32; returns them as read-only float32."""
    array = _one_dimensional(name, "weights", weights)
    ok = array.dtype.kind in "fiu"
    require(ok, f"{name}: weights have dtype {array.dtype}. They must be real numbers.")
    require(
        array.shape[0] == row_splits[-1],
        f"{name}: {array.shape[0]} weights for {row_splits[-1]} ids. Give one weight for each id.",
    )
    wrong = np.flatnonzero(~finite_in_float32(array))
    if wrong.size:
        row = np.searchsorted(row_splits, wrong[0], "right") - 1
        raise InputError(
            f"{name}: row {row} holds the weight {array[wrong[0]]} ({wrong.size} such weights). "
            "Weights must be finite, also in float32."
        )
    return frozen(array, np.float32)


def finite_in_float32(array: Array) -> npt.NDArray[np.bool_]:
    """Returns a mask of the numbers that are finite in float32, in the array's shape."""
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite
        return np.isfinite(array.astype(np.float32, copy=False))


def checked_rows(name: str, rows: npt.ArrayLike, num_rows: int) -> Int64Array:
    """Checks row numbers [M], M > 0, each in [0, num_rows); returns them as int64."""
    array = _one_dimensional(name, "rows", rows)
    if array.size:  # an empty list has no dtype of its own
        checked_integers(name, "rows", array)
    ok = array.size > 0 and array.min() >= 0 and array.max() < num_rows
    require(ok, f"{name}: cannot take these rows. Give at least one, from 0 to {num_rows - 1}.")
    return array.astype(np.int64)


def _one_dimensional(name: str, part: str, array: npt.ArrayLike) -> Array:
    array = np.asarray(array)
    shape = array.shape
    require(array.ndim == 1, f"{name}: {part} has shape {shape}. It must have one dimension.")
    return array


def frozen(array: Array, dtype: npt.DTypeLike) -> Array:
    # Copied unless the array is read-only: nobody may change it after the check.
    found = array.astype(dtype, copy=array.flags.writeable)
    found.flags.writeable = False
    return found
