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

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from harness.base.archive import MAX_HEADER_BYTES, array_header
from harness.base.checks import checked, require
from harness.base.errors import InputError
from harness.base.files import write_json
from harness.base.reading import damage, opened, read_json
from harness.data.ragged import Array, MappedFile, RaggedSets
from kernels.files import remove_partial_files, replacing

Arrays = Mapping[str, npt.NDArray[Any]]

_FORMAT = {"format": "harness-ragged-sets", "version": 1}
_REQUIRED = ("values", "row_splits", "labels")
_DTYPES: dict[str, type[np.number[Any]]] = {
    "values": np.int32,
    "row_splits": np.int64,
    "labels": np.int32,
    "label_values": np.int32,
    "label_splits": np.int64,
    "weights": np.float32,
}
_DESCRIBED = ("name", "num_tokens", "num_classes")
_CHUNK_IDS = 1 << 20
_LEFT_SECONDS = 24 * 3600  # age from which an unfinished folder is a killed process's
_CHECKED = (*_DESCRIBED, "is_unique", "rows", "nnz", "held_out_rows")


def save(sets: RaggedSets, folder: str | os.PathLike[str], *, held_out_rows: int = 0) -> None:
    """Writes `sets` as a new folder. The first `held_out_rows` are test rows; if 0, `harness.load`
    draws a fifth of the rows at random, each class by its share."""
    folder = Path(folder)
    ok = sets.is_labelled
    require(ok, f"{sets.name}: rows without labels cannot be saved. Give their labels.")
    require(
        0 <= held_out_rows < sets.num_rows,
        f"{folder}: held_out_rows is {held_out_rows} of {sets.num_rows} rows. Choose from 0 to "
        f"{sets.num_rows - 1}.",
    )
    with new_folder(folder) as written:
        write(sets, written, held_out_rows=held_out_rows)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields a path to make a folder at, which becomes `folder` if the block succeeds."""
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} exists already. Choose another folder, or remove it first.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Nobody else would remove what a killed process left there.
        remove_partial_files(folder.parent, older_than_seconds=_LEFT_SECONDS)
        with replacing(folder) as written:
            yield written
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{folder} cannot be made: {error}. Choose another folder.") from error


def write(sets: RaggedSets, folder: Path, *, held_out_rows: int) -> None:
    """Makes the folder itself, without the checks of `save`."""
    folder.mkdir()
    append(folder, weights=sets.weights, **{part: getattr(sets, part) for part in _REQUIRED})
    if (several := sets.label_sets) is not None:
        append(folder, label_values=several.values, label_splits=several.row_splits)
    described = {key: getattr(sets, key) for key in (*_DESCRIBED, "is_unique")}
    seal(folder, described, held_out_rows=held_out_rows)


def append(folder: Path, **arrays: Array | None) -> None:
    """Adds to arrays [M] of a store, until `seal`. Unlike np.save, it says when the disk is
    full."""
    for name, array in arrays.items():
        if array is not None:
            assert array.dtype == _DTYPES[name]
            with (folder / f"{name}.npy").open("ab") as file:
                if not file.tell():
                    _write_header(file, name, 0)
                file.write(np.ascontiguousarray(array).data)


def seal(folder: Path, described: Mapping[str, Any], *, held_out_rows: int) -> None:
    """Adds the meta.json that `load` needs to a folder of arrays, and their sizes."""
    for path in folder.glob("*.npy"):
        with path.open("r+b") as file:
            _write_header(file, path.stem, 0)
            num_bytes = path.stat().st_size - file.tell()
            file.seek(0)  # a header is as long with any size
            _write_header(file, path.stem, num_bytes // np.dtype(_DTYPES[path.stem]).itemsize)
    sets = _sets(_map_arrays(folder), described)
    counts = {"rows": sets.num_rows, "nnz": sets.nnz, "held_out_rows": held_out_rows}
    meta = {**_FORMAT, **described, **counts}
    write_json(folder / "meta.json", {**meta, "checksum": checksum(meta, sets)})


def _write_header(file: BinaryIO, name: str, size: int) -> None:
    header = np.lib.format.header_data_from_array_1_0(np.empty(0, _DTYPES[name]))
    np.lib.format.write_array_header_1_0(file, {**header, "shape": (size,)})


def load(folder: str | os.PathLike[str]) -> tuple[RaggedSets, int]:
    """Maps a folder that `save` wrote: all rows, and how many of the first are test rows. The
    arrays stay on disk until they are used."""
    folder = Path(folder)
    path = folder / "meta.json"
    meta = read_json(path, remedy="Give a folder that store.save or `data convert` wrote.")
    ok = _FORMAT.items() <= meta.items()
    require(ok, f"{path} is not of the format {_FORMAT}. Save the set again.")
    for name, kind in (("name", str), ("is_unique", bool), ("held_out_rows", int)):
        checked(kind, meta.get(name), f"{path}: {name}")
    arrays = _map_arrays(folder)
    # A change may leave what cannot be ragged sets, or come with a checksum of its own.
    with contextlib.suppress(InputError, KeyError):
        sets = _sets(arrays, meta)
        ok = meta.get("checksum") == checksum(meta, sets)
        ok = ok and (meta["rows"], meta["nnz"]) == (sets.num_rows, sets.nnz)
        ok = ok and 0 <= meta["held_out_rows"] < sets.num_rows
        if ok and (not sets.is_unique or _ascends(sets)):
            return sets, meta["held_out_rows"]
    raise InputError(f"{folder} was changed or damaged: its files do not agree. Save it again.")


def _ascends(sets: RaggedSets) -> bool:
    """Whether the ids of each row ascend, as `unique` leaves them."""
    for start in range(0, sets.nnz, _CHUNK_IDS):
        ids = sets.values[start : start + _CHUNK_IDS + 1]
        begins = start + 1 + np.flatnonzero(ids[1:] <= ids[:-1])  # only a new row may
        if (sets.row_splits[np.searchsorted(sets.row_splits, begins)] != begins).any():
            return False
    return True


def _sets(arrays: Arrays, described: Mapping[str, Any]) -> RaggedSets:
    label_sets = None
    if "label_values" in arrays:
        label_sets = RaggedSets(
            values=arrays["label_values"],
            row_splits=arrays["label_splits"],
            num_tokens=described["num_classes"],
            name=f"the labels of {described['name']}",
        )
    parts: dict[str, Any] = {part: arrays[part] for part in _REQUIRED}
    parts |= {key: described[key] for key in _DESCRIBED}
    sets = RaggedSets(**parts, label_sets=label_sets, weights=arrays.get("weights"))
    return sets.derived(is_unique=described["is_unique"])


def checksum(meta: Mapping[str, Any], sets: RaggedSets) -> str:
    """Returns the checksum of a store with this meta.json and these rows."""
    rest = json.dumps({key: meta.get(key) for key in _CHECKED})
    return hashlib.sha256((rest + sets.fingerprint).encode()).hexdigest()


def _map_arrays(folder: Path) -> dict[str, npt.NDArray[Any]]:
    paths = {part: folder / f"{part}.npy" for part in _DTYPES}
    there = [part for part in _DTYPES if part in _REQUIRED or paths[part].exists()]
    return {part: _map_array(paths[part], _DTYPES[part]) for part in there}


def _map_array(path: Path, expected: type[np.number[Any]]) -> npt.NDArray[Any]:
    remedy = "Save the set again."
    with (
        opened(path, remedy=remedy) as file,
        damage(path, what="an array of this format", remedy=remedy),
    ):
        shape, _, dtype, start = array_header(file.read(MAX_HEADER_BYTES))
        (count,) = shape
        num_bytes = os.fstat(file.fileno()).st_size - start
        if dtype != expected or count * dtype.itemsize != num_bytes:
            raise ValueError(f"it has {num_bytes} bytes for {dtype} {list(shape)}")
        return np.frombuffer(MappedFile(file, str(path)), dtype, count, start)
