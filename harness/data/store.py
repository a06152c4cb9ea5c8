"""The harness's own data format: a folder of plain .npy files that are mapped into memory.

    values.npy      int32 [N]
    row_splits.npy  int64 [B + 1]
    labels.npy      int32 [B]
    meta.json       format, version, name, num_tokens, num_classes, is_unique, rows, nnz,
                    held_out_rows, checksum

If a row may have several classes, also:

    label_values.npy  int32 [L]
    label_splits.npy  int64 [B + 1]

If ids have weights, also:

    weights.npy       float32 [N]

No pickle is written or read. A folder is written under a temporary name and renamed when complete.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from harness.base.checks import require
from harness.base.errors import InputError
from harness.base.files import write_json
from harness.base.reading import damage, opened, read_json
from harness.data.archive import MAX_HEADER_BYTES, array_header
from harness.data.ragged import RaggedSets, fingerprint_of
from kernels.files import replacing

_FORMAT = {"format": "harness-ragged-sets", "version": 1}
_PARTS: dict[str, type[np.number[Any]]] = {
    "values": np.int32,
    "row_splits": np.int64,
    "labels": np.int32,
}
_LABEL_PARTS: dict[str, type[np.number[Any]]] = {
    "label_values": np.int32,
    "label_splits": np.int64,
}
_WEIGHTS = "weights"
_DESCRIBED = ("name", "num_tokens", "num_classes")
_COUNTS = ("num_tokens", "num_classes", "held_out_rows")
_TYPES: dict[str, type] = {"name": str, "is_unique": bool, **dict.fromkeys(_COUNTS, int)}
_CHECKED = (*_DESCRIBED, "is_unique", "rows", "nnz", "held_out_rows")


def save(sets: RaggedSets, folder: str | os.PathLike[str], *, held_out_rows: int = 0) -> None:
    """Writes `sets` as a new folder.

    Args:
        sets: the rows.
        folder: path of the new folder.
        held_out_rows: how many of the first rows are test rows. 0: `harness.load` draws a fifth of
            the rows at random, each class by its share.

    Raises:
        InputError: if the rows have no labels, none would be left to train on, the folder exists
            already, or its parent cannot be written to.
        OSError: if writing fails, such as on a full disk; no folder is left behind.
    """
    folder = Path(folder)
    require(
        sets.is_labelled, f"{sets.name}: rows without labels cannot be saved. Give their labels."
    )
    require(
        0 <= held_out_rows < sets.num_rows,
        f"{folder}: held_out_rows is {held_out_rows} of {sets.num_rows} rows. Choose from 0 to "
        f"{sets.num_rows - 1}.",
    )
    if folder.exists():
        raise InputError(f"{folder} exists already. Choose another folder, or remove it first.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder) as written:
            written.mkdir()
            _write(sets, written, held_out_rows)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{folder} cannot be made: {error}. Choose another folder.") from error


def _write(sets: RaggedSets, folder: Path, held_out_rows: int) -> None:
    for part in _PARTS:
        with NpyFile(folder / f"{part}.npy", _PARTS[part]) as file:
            file.append(getattr(sets, part))
    others: dict[str, npt.NDArray[Any]] = {}
    if sets.label_sets is not None:
        others["label_values"] = sets.label_sets.values
        others["label_splits"] = sets.label_sets.row_splits
    if sets.weights is not None:
        others[_WEIGHTS] = sets.weights
    for part, array in others.items():
        with NpyFile(folder / f"{part}.npy", array.dtype) as file:
            file.append(array)
    described = {key: getattr(sets, key) for key in (*_DESCRIBED, "is_unique")}
    _write_meta(folder, described, held_out_rows, sets.row_splits, sets.fingerprint)


def seal(folder: Path, described: Mapping[str, Any], *, held_out_rows: int) -> None:
    """Adds the meta.json that `load` needs to a folder of arrays that were written one by one.

    Args:
        folder: the folder with the arrays.
        described: values for the keys name, num_tokens, num_classes and is_unique.
        held_out_rows: see `save`.

    Raises:
        InputError: if the arrays are no ragged sets.
    """
    sets = _sets(_map_parts(folder), described)
    _write_meta(folder, described, held_out_rows, sets.row_splits, sets.fingerprint)


def _write_meta(
    folder: Path,
    described: Mapping[str, Any],
    held_out_rows: int,
    row_splits: npt.NDArray[np.int64],
    fingerprint: str,
) -> None:
    meta = {
        **_FORMAT,
        **described,
        "rows": len(row_splits) - 1,
        "nnz": int(row_splits[-1]),
        "held_out_rows": held_out_rows,
    }
    write_json(folder / "meta.json", {**meta, "checksum": _checksum(meta, fingerprint)})


class NpyFile:
    """An .npy file of a growing one-dimensional array.

    Unlike np.save, it raises an OSError that says so when the disk is full.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self.size = 0
        """Number of elements so far."""
        self._file = path.open("wb")
        self._write_header()

    def append(self, array: npt.NDArray[Any]) -> None:
        """Adds the elements of an array [M] of the file's dtype."""
        if array.dtype != self._dtype or array.ndim != 1:
            raise ValueError(f"{array.dtype} {array.shape} is not {self._dtype} [M]")
        self._file.write(np.ascontiguousarray(array).data)
        self.size += array.shape[0]

    def _write_header(self) -> None:
        # NumPy leaves room in the header for the count to grow.
        header = np.lib.format.header_data_from_array_1_0(np.empty(0, self._dtype))
        np.lib.format.write_array_header_1_0(self._file, {**header, "shape": (self.size,)})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._write_header()


def load(folder: str | os.PathLike[str]) -> RaggedSets:
    """Maps a folder that `save` wrote; the arrays stay on disk until they are used.

    Raises:
        InputError: if a part is missing, truncated, changed or of another version.
    """
    folder = Path(folder)
    meta = _read_meta(folder)
    parts = _map_parts(folder)
    counts: list[Any] = [meta["num_tokens"], meta["num_classes"]]
    if "label_values" in parts:
        values, splits = parts["label_values"], parts["label_splits"]
        no_labels = np.zeros(max(splits.size - 1, 0), np.int32)
        counts.append(fingerprint_of(splits, no_labels, values, meta["num_classes"], 2))
    arrays = parts["row_splits"], parts["labels"], parts["values"]
    fingerprint = fingerprint_of(*arrays, *counts, weights=parts.get(_WEIGHTS))
    if meta.get("checksum") != _checksum(meta, fingerprint):
        raise InputError(f"{folder} was changed or damaged: its checksum differs. Save it again.")
    return _sets(parts, meta).derived(is_unique=meta["is_unique"])


def _map_parts(folder: Path) -> dict[str, npt.NDArray[Any]]:
    several = any((folder / f"{part}.npy").exists() for part in _LABEL_PARTS)
    weighted = (folder / f"{_WEIGHTS}.npy").exists()
    kinds = (
        _PARTS | (_LABEL_PARTS if several else {}) | ({_WEIGHTS: np.float32} if weighted else {})
    )
    return {part: _map_part(folder, part, dtype) for part, dtype in kinds.items()}


def _sets(parts: Mapping[str, npt.NDArray[Any]], described: Mapping[str, Any]) -> RaggedSets:
    label_sets = None
    if "label_values" in parts:
        label_sets = RaggedSets(
            values=parts["label_values"],
            row_splits=parts["label_splits"],
            num_tokens=described["num_classes"],
            name=f"the labels of {described['name']}",
        )
    arrays: dict[str, Any] = {part: parts[part] for part in _PARTS}
    named = {key: described[key] for key in _DESCRIBED}
    weights = parts.get(_WEIGHTS)
    return RaggedSets(**arrays, **named, label_sets=label_sets, weights=weights)


def held_out_rows(folder: str | os.PathLike[str]) -> int:
    """Returns how many of a folder's first rows are test rows; 0 if `save` was not given any."""
    return int(_read_meta(Path(folder))["held_out_rows"])


def _checksum(meta: Mapping[str, Any], fingerprint: str) -> str:
    """Returns the SHA-256 of the rows' fingerprint and the rest of meta.json."""
    rest = json.dumps({key: meta.get(key) for key in _CHECKED})
    return hashlib.sha256((rest + fingerprint).encode()).hexdigest()


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    meta = read_json(path, remedy="Give a folder that store.save or `data convert` wrote.")
    require(
        _FORMAT.items() <= meta.items(),
        f"{path} is not of the format {_FORMAT}. Save the set again.",
    )
    for key, kind in _TYPES.items():
        require(
            type(meta.get(key)) is kind,
            f"{path}: {key} is {meta.get(key)!r:.100}, not of the type {kind.__name__}. Save the "
            "set again.",
        )
    return meta


def _map_part(folder: Path, part: str, expected: type[np.number[Any]]) -> npt.NDArray[Any]:
    path, remedy = folder / f"{part}.npy", "Save the set again."
    with (
        opened(path, remedy=remedy) as file,
        damage(path, what="an array of this format", remedy=remedy),
    ):
        shape, _, dtype, start = array_header(file.read(MAX_HEADER_BYTES))
        (count,) = shape
        num_bytes = os.fstat(file.fileno()).st_size - start
        if dtype != expected or count * dtype.itemsize != num_bytes:
            raise ValueError(f"it has {num_bytes} bytes for {dtype} {list(shape)}")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, dtype, count, start)
