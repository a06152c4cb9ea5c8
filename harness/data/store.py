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
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.data.ragged import RaggedSets
from harness.errors import InputError
from harness.files import read_json, replacing, write_json

FORMAT_NAME = "harness-ragged-sets"
FORMAT_VERSION = 1

_PARTS = {"values": np.int32, "row_splits": np.int64, "labels": np.int32}
_META_TYPES = {
    "name": str,
    "num_tokens": int,
    "num_classes": int,
    "is_unique": bool,
    "rows": int,
    "nnz": int,
    "held_out_rows": int,
}


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
    if not sets.is_labelled:
        raise InputError(f"{sets.name}: rows without labels cannot be saved. Give their labels.")
    if not 0 <= held_out_rows < sets.num_rows:
        raise InputError(
            f"{folder}: held_out_rows is {held_out_rows} of {sets.num_rows} rows. Choose from 0 to "
            f"{sets.num_rows - 1}."
        )
    if folder.exists():
        raise InputError(f"{folder} exists already. Choose another folder, or remove it first.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        beside.mkdir()
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{folder} cannot be made: {error}. Choose another folder.") from error
    try:
        for part in _PARTS:
            with replacing(beside / f"{part}.npy") as path:
                _write_npy(path, getattr(sets, part))
        meta = {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            "name": sets.name,
            "num_tokens": sets.num_tokens,
            "num_classes": sets.num_classes,
            "is_unique": sets.is_unique,
            "rows": sets.num_rows,
            "nnz": sets.nnz,
            "held_out_rows": held_out_rows,
        }
        write_json(beside / "meta.json", {**meta, "checksum": _checksum(meta, sets)})
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _write_npy(path: Path, array: npt.NDArray[Any]) -> None:
    """As np.save does, whose OSError on a full disk does not say that the disk is full."""
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(array).data)


def load(folder: str | os.PathLike[str]) -> RaggedSets:
    """Maps what `save` wrote and validates it once; the arrays stay on disk until they are used.

    Raises:
        InputError: a part is missing, truncated, changed or of another version, or breaks a rule
            of `RaggedSets`.
    """
    folder = Path(folder)
    meta = _read_meta(folder)
    parts: dict[str, Any] = {part: _map_part(folder, part) for part in _PARTS}
    described = ("name", "num_tokens", "num_classes", "is_unique")
    sets = RaggedSets(**parts, **{key: meta[key] for key in described})
    # Folders of earlier versions have none.
    if "checksum" in meta and meta["checksum"] != _checksum(meta, sets):
        raise InputError(f"{folder} was changed or damaged: its checksum differs. Save it again.")
    return sets


def held_out_rows(folder: str | os.PathLike[str]) -> int:
    """How many of the first rows are test rows; 0 when `save` was not told.

    Raises:
        InputError: as `load`, of meta.json.
    """
    return int(_read_meta(Path(folder))["held_out_rows"])


def _checksum(meta: Mapping[str, Any], sets: RaggedSets) -> str:
    """SHA-256 of the rows and of the rest of meta.json."""
    rest = json.dumps({key: meta[key] for key in _META_TYPES})
    return hashlib.sha256((rest + sets.fingerprint).encode()).hexdigest()


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    files = ", ".join(f"{part}.npy" for part in _PARTS)
    meta = read_json(path, remedy=f"Give a folder that holds {files} and meta.json.")
    if meta.get("format") != FORMAT_NAME:
        raise InputError(
            f'{path} does not say "format": "{FORMAT_NAME}". Give a folder written by this harness.'
        )
    if meta.get("version") != FORMAT_VERSION:
        raise InputError(
            f"{path} says version {meta.get('version')}, this harness reads {FORMAT_VERSION}. "
            "Save the set again with this harness."
        )
    for key, kind in _META_TYPES.items():
        if type(meta.get(key)) is not kind:
            raise InputError(
                f"{path}: {key} is {meta.get(key)!r}, not of type {kind.__name__}. "
                "Save the set again."
            )
    return meta


def _map_part(folder: Path, part: str) -> npt.NDArray[Any]:
    path = folder / f"{part}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises half a dozen types on damaged bytes
        raise InputError(
            f"{path} is missing, truncated or not a .npy file: {error}. Save the set again."
        ) from error
    # np.load would open a zip archive under this name as well.
    dtype = np.dtype(_PARTS[part])
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
        raise InputError(f"{path} is not {dtype} in one dimension. Save the set again.")
    return array
