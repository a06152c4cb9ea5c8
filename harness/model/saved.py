"""Loads models from files that somebody else may have written."""

import contextlib
import io
import warnings
from pathlib import Path

import h5py
import keras

import harness.model.layers  # noqa: F401 - registers its classes with Keras
from harness.base.archive import Archive
from harness.base.errors import InputError
from harness.base.reading import json_object
from harness.model.budget import Budget, num_bytes, shown_variable, without_values

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MAX_BYTES = 32_000_000  # of all members, if the file is not larger: Keras compresses nothing
_SEEDS_BYTES = 100_000  # Allowance for variables that are not stored, such as random seeds
_KINDS = "biufV"  # Kinds of the dtypes of real numbers; bfloat16 is stored as the last
_REMEDY = "Name a .keras file that a trainer or Keras saved."


def load_model(path: str | Path) -> keras.Model:
    """Loads the Keras model in a .keras file, with this package's layers. Raises InputError if it
    is no such file, is damaged, or holds fewer weights than its network."""
    archive = Archive(path, what="a .keras file", remedy=_REMEDY, max_bytes=_MAX_BYTES)
    with archive, archive.damage():
        config = json_object(archive.read(_CONFIG))
        stored_bytes = _checked_weights(archive.read(_WEIGHTS))
        archive.check()
        # Make the network a first time without values. If Keras cannot, it says why below.
        with without_values() as variables, contextlib.suppress(Exception):
            keras.saving.deserialize_keras_object(config | {"compile_config": None})
        if sum(map(num_bytes, variables)) > stored_bytes + _SEEDS_BYTES:
            largest = shown_variable(max(variables, key=num_bytes))
            raise InputError(
                f"{path} is damaged: {largest} does not fit its {stored_bytes:,} bytes of weights. "
                f"{_REMEDY}"
            )
        if variables:
            Budget().require_all(variables)
        with warnings.catch_warnings():
            # After this warning Keras leaves layers as they were initialized.
            warnings.filterwarnings("error", "Skipping nested container")
            return keras.saving.load_model(path, compile=False)


def _checked_weights(content: bytes) -> int:
    """Returns the bytes of all weights in an HDF5 file; raises any exception if it is none."""
    sizes: list[int] = []

    def check(name: str, found: h5py.Group | h5py.Dataset) -> None:
        if isinstance(found, h5py.Dataset):
            if found.dtype.kind not in _KINDS:
                raise ValueError(f"its weight {name:.100} holds no numbers")
            # Keras would allocate the weight before it looks at what is stored.
            if found.nbytes > found.id.get_storage_size():
                raise ValueError(f"its weight {name:.100} has fewer bytes than its shape takes")
            sizes.append(found.nbytes)

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(check)
    return sum(sizes)
