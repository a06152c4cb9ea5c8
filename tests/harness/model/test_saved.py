"""Models in files: Keras's files are loaded, and damaged or hostile ones give one message."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.model.network import DefaultNetwork, build_model
from harness.model.saved import load_model
from tests.harness.random_sets import random_sets

Members = dict[str, bytes]
KERNEL = "layers/dense/vars/0"


@pytest.fixture(scope="module")
def model() -> keras.Model:
    network = DefaultNetwork(hidden_units=(5, 4), dropout=(0.1, 0.0), num_tokens=60, num_classes=2)
    sets = random_sets(np.random.default_rng(), rows=3, num_tokens=60)
    return build_model(network, Examples.of(sets), dtype="float32", device="/CPU:0", seed=0)


@pytest.fixture
def path(model: keras.Model, tmp_path: Path) -> Path:
    model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def rewrite(path: Path, change: Callable[[Members], object], **options: Any) -> None:
    """Changes the members of an archive, and corrects their checksums."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def replaced(text: str, by: str) -> Callable[[Members], None]:
    """Returns a change of a text in config.json."""

    def change(members: Members) -> None:
        config = members["config.json"].decode()
        assert text in config
        members["config.json"] = config.replace(text, by).encode()

    return change


def weights(change: Callable[[h5py.File], object]) -> Callable[[Members], None]:
    """Returns a change of the HDF5 file of weights."""

    def changed(members: Members) -> None:
        stream = io.BytesIO(members["model.weights.h5"])
        with h5py.File(stream, "r+") as file:
            change(file)
        members["model.weights.h5"] = stream.getvalue()

    return changed


def weight(value: Any = None, **options: Any) -> Callable[[Members], None]:
    """Returns a change of the second layer's kernel."""

    def change(file: h5py.File) -> None:
        del file[KERNEL]
        if options:
            file.create_dataset(KERNEL, **options)
        elif value is not None:
            file[KERNEL] = value

    return weights(change)


def test_what_is_saved_is_loaded(path: Path, model: keras.Model) -> None:
    loaded = load_model(path)
    for found, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_weights_of_sixteen_bits_are_loaded(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
    model.save(tmp_path / "model.keras")
    found = load_model(tmp_path / "model.keras").get_weights()[0]
    np.testing.assert_array_equal(found, model.get_weights()[0])


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda members: members.pop("config.json"), "no item named 'config.json'"),
        (lambda members: members.update({"config.json": b"[" * 100_000}), "recursion"),
        (replaced('"class_name": "Dense"', '"class_name": "Danse"'), "Danse"),
        (replaced('"units": 4', f'"units": {2**40}'), "does not fit its .* bytes of weights"),
        (replaced('"units": 4', '"units": 5'), "shape"),
        (weight("text"), "dense/vars/0 holds no numbers"),
        (weight(shape=(2**20, 2**20), dtype="f4", chunks=True), "dense/vars/0 has fewer bytes"),
        (weight(shape=(5, 4), dtype="f4", external=[("/etc/hosts", 0, 80)]), "external|container"),
        (weight(h5py.ExternalLink("/etc/hosts", "/")), "ExternalLink|container"),
    ],
)
def test_another_content_with_a_right_checksum_is_refused(
    path: Path, change: Callable[[Members], object], fact: str
) -> None:
    rewrite(path, change)
    with pytest.raises(InputError, match=f"(?s)model.keras.*({fact}).* Name a .keras file that"):
        load_model(path)


def test_a_member_that_unpacks_to_more_than_a_model_is_refused(path: Path) -> None:
    more = {"assets/a": bytes(40_000_000)}
    rewrite(path, lambda members: members.update(more), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"at least 40,\d+,\d+ bytes, and 32,000,000 are allow"):
        load_model(path)
