"""The harness's own file format: a folder of plain .npy files that can be memory-mapped.

    values.npy      int32 [N]
    row_splits.npy  int64 [B + 1]
    labels.npy      int32 [B]
    meta.json       format, version, name, num_tokens, num_classes, is_unique, rows, nnz,
                    held_out_rows

No pickle is written or read. The folder is written beside its final name and renamed when whole.
"""

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from harness.data.keras_pickle import MALFORMED_NPY
from harness.data.ragged import RaggedSets
from harness.errors import InputError
from harness.files import replacing, write_json

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
        held_out_rows: how many of the first rows to test on; 0 leaves the split to who loads.

    Raises:
        InputError: the folder exists already, or its parent cannot be written to.
        OSError: the disk is full, or another failure while writing; no folder is left behind.
    """
    folder = Path(folder)
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
        write_json(beside / "meta.json", meta)
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


def load(folder: str | os.PathLike[str], *, mmap_mode: Literal["r"] | None = "r") -> RaggedSets:
    """Reads what `save` wrote and validates it once.

    Args:
        folder: the folder.
        mmap_mode: "r" leaves the arrays on disk until they are used; None reads them.

    Raises:
        InputError: a part is missing, truncated or of another version, or breaks a rule of
            `RaggedSets`.
    """
    folder = Path(folder)
    meta = _read_meta(folder)
    parts = {part: _read_part(folder, part, mmap_mode) for part in _PARTS}
    sizes = (parts["row_splits"].shape[0] - 1, parts["values"].shape[0])
    if sizes != (meta["rows"], meta["nnz"]):
        raise InputError(
            f"{folder}: the arrays hold (rows, ids) {sizes}, but meta.json says "
            f"{(meta['rows'], meta['nnz'])}. The parts are of different sets; save the set again."
        )
    return RaggedSets(
        values=parts["values"],
        row_splits=parts["row_splits"],
        labels=parts["labels"],
        num_tokens=meta["num_tokens"],
        name=meta["name"],
        num_classes=meta["num_classes"],
        is_unique=meta["is_unique"],
    )


def held_out_rows(folder: str | os.PathLike[str]) -> int:
    """How many of the first rows `save` was told to hold out; 0 when it was not.

    Raises:
        InputError: as `load`, of meta.json.
    """
    return int(_read_meta(Path(folder))["held_out_rows"])


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _missing(path) from error
    # Text that is not UTF-8 and text that is not JSON both raise a ValueError.
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}. Save the set again.") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT_NAME:
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


def _read_part(folder: Path, part: str, mmap_mode: Literal["r"] | None) -> npt.NDArray[Any]:
    path = folder / f"{part}.npy"
    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except MALFORMED_NPY as error:
        raise InputError(
            f"{path} is truncated or not a .npy file: {error}. Save the set again."
        ) from error
    # np.load would open a zip archive under this name as well.
    dtype = np.dtype(_PARTS[part])
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
        raise InputError(f"{path} is not {dtype} in one dimension. Save the set again.")
    if mmap_mode is None:
        array.flags.writeable = False
    return array


def _missing(path: Path) -> InputError:
    return InputError(f"{path} is missing. Give a folder that holds {', '.join(_file_names())}.")


def _file_names() -> list[str]:
    return [f"{part}.npy" for part in _PARTS] + ["meta.json"]
