"""The harness's own file format: a folder of plain .npy files that are mapped into memory.

    values.npy      int32 [N]
    row_splits.npy  int64 [B + 1]
    labels.npy      int32 [B]
    meta.json       format, version, name, num_tokens, num_classes, is_unique, rows, nnz,
                    held_out_rows, checksum

No pickle is written or read. A folder is written under a temporary name and renamed when complete.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checks import require
from harness.data.archive import MAX_HEADER_BYTES, array_header
from harness.data.ragged import RaggedSets, fingerprint_of
from harness.errors import InputError
from harness.files import write_json
from harness.reading import damage, opened, read_json
from kernels.files import replacing

_FORMAT = {"format": "harness-ragged-sets", "version": 1}
_PARTS = {"values": np.int32, "row_splits": np.int64, "labels": np.int32}
_DESCRIBED = ("name", "num_tokens", "num_classes")
_COUNTS = ("num_tokens", "num_classes", "held_out_rows")
_TYPES: dict[str, type] = {"name": str, "is_unique": bool, **dict.fromkeys(_COUNTS, int)}
_CHECKED = (*_DESCRIBED, "is_unique", "rows", "nnz", "held_out_rows")


def save(sets: RaggedSets, folder: str | os.PathLike[str], *, held_out_rows: int = 0) -> None:
    """Writes `sets` as a new folder.

    Args:
        sets: the rows.
        folder: its name.
        held_out_rows: how many of the first rows are test rows. 0: `load` draws a fifth of the
            rows at random, each class by its share.

    Raises:
        InputError: the rows have no labels, none would be left to train on, the folder exists
            already, or its parent cannot be written to.
        OSError: the disk is full, or another failure while writing; no folder is left behind.
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
        _write_npy(folder / f"{part}.npy", getattr(sets, part))
    meta = _FORMAT | {
        **{key: getattr(sets, key) for key in (*_DESCRIBED, "is_unique")},
        "rows": sets.num_rows,
        "nnz": sets.nnz,
        "held_out_rows": held_out_rows,
    }
    write_json(folder / "meta.json", {**meta, "checksum": _checksum(meta, sets.fingerprint)})


def _write_npy(path: Path, array: npt.NDArray[Any]) -> None:
    """As np.save does, whose OSError on a full disk does not say that the disk is full."""
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(array).data)


def load(folder: str | os.PathLike[str]) -> RaggedSets:
    """Maps what `save` wrote; the arrays stay on disk until they are used.

    Raises:
        InputError: a part is missing, truncated, changed or of another version.
    """
    folder = Path(folder)
    meta = _read_meta(folder)
    parts: dict[str, Any] = {part: _map_part(folder, part) for part in _PARTS}
    counts = meta.get("num_tokens"), meta.get("num_classes")
    fingerprint = fingerprint_of(parts["row_splits"], parts["labels"], parts["values"], *counts)
    if meta.get("checksum") != _checksum(meta, fingerprint):
        raise InputError(f"{folder} was changed or damaged: its checksum differs. Save it again.")
    sets = RaggedSets(**parts, **{key: meta[key] for key in _DESCRIBED})
    return sets.derived(is_unique=meta["is_unique"])


def held_out_rows(folder: str | os.PathLike[str]) -> int:
    """How many of the first rows of a folder that `load` accepts are test rows; 0 when `save` was
    not told."""
    return int(_read_meta(Path(folder))["held_out_rows"])


def _checksum(meta: Mapping[str, Any], fingerprint: str) -> str:
    """SHA-256 of the rows and of the rest of meta.json."""
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


def _map_part(folder: Path, part: str) -> npt.NDArray[Any]:
    path, remedy = folder / f"{part}.npy", "Save the set again."
    with (
        opened(path, remedy=remedy) as file,
        damage(path, what="an array of this format", remedy=remedy),
    ):
        shape, _, dtype, start = array_header(file.read(MAX_HEADER_BYTES))
        (count,) = shape
        num_bytes = os.fstat(file.fileno()).st_size - start
        if dtype != _PARTS[part] or count * dtype.itemsize != num_bytes:
            raise ValueError(f"it has {num_bytes} bytes for {dtype} {list(shape)}")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, dtype, count, start)
