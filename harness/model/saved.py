"""Models in files: saved by Keras, and loaded from what somebody else may have written."""

import io
import shutil
import time
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras

import harness.model.layers  # noqa: F401 - registers its classes with Keras
from harness.base.errors import InputError
from harness.base.reading import json_object
from harness.data.archive import Archive
from harness.model.budget import Budget, within_memory

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MAX_BYTES = 32_000_000
"""What the members may take together, or the file's size where that is more: Keras compresses
none."""
_SEEDS_BYTES = 100_000
"""Of variables that are not stored, such as random seeds."""
_KINDS = "biufV"
"""Of real numbers; the last is what bfloat16 is stored as."""
_REMEDY = "Name a .keras file that a trainer or Keras saved."


@dataclass(frozen=True, kw_only=True)
class StoredBudget(Budget):
    """Of a network whose weights lie in a file that may be damaged: it needs no more than that
    holds."""

    path: str | Path
    stored_bytes: int

    def require(self, new: Mapping[str, int], *, held: int, trained: int) -> int:
        if held > self.stored_bytes + _SEEDS_BYTES:
            raise InputError(
                f"{self.path} is damaged: {', '.join(new)} does not fit its {self.stored_bytes:,} "
                f"bytes of weights. {_REMEDY}"
            )
        return super().require(new, held=held, trained=trained)


def save_model(model: keras.Model, path: Path) -> None:
    """`model.save`, also where the clock is outside of the years that a ZIP archive can hold.

    Keras has no way to leave the date out. Its folder is therefore put into an archive here, with
    the nearest date that there is.
    """
    if 1980 <= time.localtime().tm_year < 2108:
        model.save(path)
        return
    folder = path.with_suffix(".folder")
    model.save(folder, zipped=False)
    with zipfile.ZipFile(path, "w", strict_timestamps=False) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    shutil.rmtree(folder)


def load_model(path: str | Path) -> keras.Model:
    """The Keras model in a .keras file, with this package's layers.

    Raises:
        InputError: when it is none, it is damaged, or its network has more weights than it holds.
    """
    archive = Archive(path, what="a .keras file", remedy=_REMEDY, max_bytes=_MAX_BYTES)
    with archive, archive.damage():
        json_object(archive.read(_CONFIG))
        num_bytes = _checked_weights(archive.read(_WEIGHTS))
        for name in {*archive.names} - {_CONFIG, _WEIGHTS}:
            archive.read(name)  # against its checksum
        budget = StoredBudget(path=path, stored_bytes=num_bytes)
        with within_memory(budget), warnings.catch_warnings():
            # After this warning Keras leaves layers as they were initialized.
            warnings.filterwarnings("error", "Skipping nested container")
            return keras.saving.load_model(path, compile=False)


def _checked_weights(content: bytearray) -> int:
    """The bytes of all weights in an HDF5 file; any exception where there is none, or it has a
    weight that it does not store: Keras would make it whole before it looks at its shape."""
    total = 0

    def check(name: str, found: h5py.Group | h5py.Dataset) -> None:
        nonlocal total
        if isinstance(found, h5py.Dataset):
            if found.dtype.kind not in _KINDS:
                raise ValueError(f"its weight {name:.100} holds no numbers")
            if found.nbytes > found.id.get_storage_size():
                raise ValueError(f"its weight {name:.100} has fewer bytes than its shape takes")
            total += found.nbytes

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(check)
    return total
