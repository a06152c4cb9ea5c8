"""The checks of `RaggedSets`: each raises one `InputError` with fact, values and remedy."""

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import InputError

_INT32_MAX = np.iinfo(np.int32).max


def check_counts(name: str, num_tokens: int, num_classes: int) -> None:
    """num_tokens in [1, 2^31), num_classes in [2, 2^31)."""
    if not 1 <= num_tokens <= _INT32_MAX:
        raise InputError(
            f"{name}: num_tokens is {num_tokens}; ids are int32. Choose from 1 to {_INT32_MAX}."
        )
    if not 2 <= num_classes <= _INT32_MAX:
        raise InputError(f"{name}: num_classes is {num_classes}. Choose from 2 to {_INT32_MAX}.")


def checked_integers(name: str, part: str, array: npt.ArrayLike) -> npt.NDArray[np.integer[Any]]:
    """Integers [N] of any width."""
    array = _one_dimensional(name, part, array)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name}: {part} has dtype {array.dtype}. It must hold integers.")
    return array


def checked_row_splits(
    name: str, row_splits: npt.ArrayLike, num_values: int
) -> npt.NDArray[np.int64]:
    """Integers [B + 1], B > 0, from 0 to num_values, never falling; as read-only int64."""
    array = checked_integers(name, "row_splits", row_splits)
    if array.shape[0] < 2:
        raise InputError(
            f"{name}: zero rows (row_splits has {array.shape[0]} entries, rows + 1 are needed). "
            "Give at least one row."
        )
    if array[0] != 0:
        raise InputError(f"{name}: row_splits starts at {array[0]}. It must start at 0.")
    # Compared, not subtracted: a difference of unsigned integers would wrap around.
    falls = np.flatnonzero(array[1:] < array[:-1])
    if falls.size:
        row = falls[0]
        raise InputError(
            f"{name}: row_splits is not monotonic: row {row} starts at {array[row]} and ends at "
            f"{array[row + 1]}. Each entry must be at least the one before."
        )
    if array[-1] != num_values:
        raise InputError(
            f"{name}: row_splits ends at {array[-1]}, but there are {num_values} values. "
            "Its last entry must be the number of values."
        )
    return _frozen(array, np.int64)


def checked_ids(
    name: str,
    values: npt.NDArray[np.integer[Any]],
    row_splits: npt.NDArray[np.int64],
    num_tokens: int,
) -> npt.NDArray[np.int32]:
    """Every id in [0, num_tokens); as read-only int32."""
    if values.size and (values.min() < 0 or values.max() >= num_tokens):
        wrong = np.flatnonzero((values < 0) | (values >= num_tokens))
        row = np.searchsorted(row_splits, wrong[0], "right") - 1
        raise InputError(
            f"{name}: row {row} holds id {values[wrong[0]]}, outside [0, {num_tokens}) "
            f"({wrong.size} such ids, from {values.min()} to {values.max()}). "
            "Correct the ids, or raise num_tokens above the highest."
        )
    return _frozen(values, np.int32)


def checked_labels(
    name: str, labels: npt.ArrayLike, num_rows: int, num_classes: int
) -> npt.NDArray[np.int32]:
    """Whole numbers [B] in [0, num_classes), no NaN; as read-only int32."""
    array = _one_dimensional(name, "labels", labels)
    if array.shape[0] != num_rows:
        raise InputError(
            f"{name}: {array.shape[0]} labels for {num_rows} rows. Give one label for each row."
        )
    if array.dtype.kind != "f":
        checked_integers(name, "labels", array)
    elif (wrong := np.flatnonzero(array != np.floor(array))).size:
        raise InputError(
            f"{name}: label {array[wrong[0]]} of row {wrong[0]} is not a whole number "
            f"({wrong.size} such labels). Correct the labels, or drop those rows."
        )
    wrong = np.flatnonzero((array < 0) | (array >= num_classes))
    if wrong.size:
        raise InputError(
            f"{name}: label {array[wrong[0]]} of row {wrong[0]} is outside [0, {num_classes}) "
            f"({wrong.size} such labels). Correct the labels, or raise num_classes."
        )
    return _frozen(array, np.int32)


def checked_rows(name: str, rows: npt.ArrayLike, num_rows: int) -> npt.NDArray[np.int64]:
    """Row numbers [M], M > 0, each in [0, num_rows), as int64."""
    array = _one_dimensional(name, "rows", rows)
    if not array.size:
        raise InputError(f"{name}: zero rows taken. Take at least one row.")
    checked_integers(name, "rows", array)
    wrong = np.flatnonzero((array < 0) | (array >= num_rows))
    if wrong.size:
        raise InputError(
            f"{name}: no row {array[wrong[0]]}; rows are 0 to {num_rows - 1}. Correct the rows."
        )
    return array.astype(np.int64)


def _one_dimensional(name: str, part: str, array: npt.ArrayLike) -> npt.NDArray[Any]:
    array = np.asarray(array)
    if array.ndim != 1:
        raise InputError(f"{name}: {part} has shape {array.shape}. It must have one dimension.")
    return array


def _frozen(array: npt.NDArray[Any], dtype: type[np.signedinteger[Any]]) -> npt.NDArray[Any]:
    # A copy unless nobody can write to it: what was checked once must stay what was checked.
    frozen = array.astype(dtype, copy=array.flags.writeable)
    frozen.flags.writeable = False
    return frozen
