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
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.checks import require
from harness.data.ragged import RaggedSets, fingerprint_of
from harness.errors import InputError
from harness.files import read_json, replacing, write_json

_FORMAT = {"format": "harness-ragged-sets", "version": 1}
_PARTS = {"values": np.int32, "row_splits": np.int64, "labels": np.int32}
_DESCRIBED = ("name", "num_tokens", "num_classes")
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
        around = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{folder} cannot be made: {error}. Choose another folder.") from error
    with around:
        written = Path(around.name) / folder.name
        written.mkdir()
        for part in _PARTS:
            _write_npy(written / f"{part}.npy", getattr(sets, part))
        meta = _FORMAT | {
            **{key: getattr(sets, key) for key in (*_DESCRIBED, "is_unique")},
            "rows": sets.num_rows,
            "nnz": sets.nnz,
            "held_out_rows": held_out_rows,
        }
        write_json(written / "meta.json", {**meta, "checksum": _checksum(meta, sets.fingerprint)})
        written.rename(folder)


def _write_npy(path: Path, array: npt.NDArray[Any]) -> None:
    """As np.save does, whose OSError on a full disk does not say that the disk is full."""
    with replacing(path) as beside, beside.open("wb") as file:
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
    if _FORMAT.items() <= meta.items():
        return meta
    raise InputError(f"{path} is not of the format {_FORMAT}. Save the set again.")


def _map_part(folder: Path, part: str) -> npt.NDArray[Any]:
    path = folder / f"{part}.npy"
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        return array.astype(_PARTS[part], casting="equiv", copy=False)
    except Exception as error:  # NumPy raises half a dozen types on damaged bytes
        raise InputError(
            f"{path} is missing, truncated or no array of this format: {error}. Save the set again."
        ) from error
