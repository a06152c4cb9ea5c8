"""Keras's imdb.npz format against keras.datasets.imdb itself, the download, hostile files."""

import hashlib
import importlib
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.base.errors import InputError
from harness.data import imdb
from harness.data.imdb import imdb_file, load_imdb
from harness.data.options import ImdbOptions
from harness.data.ragged import RaggedSets
from harness.data.sources import load

WriteNpz = Callable[..., Path]
STANDARD = ImdbOptions(split="standard")


def load_parts(path: Path, options: ImdbOptions = STANDARD) -> tuple[RaggedSets, RaggedSets]:
    """Returns the train rows and the test rows."""
    sets, num_test_rows = load_imdb(path, options)
    test, train = sets.split(num_test_rows)
    return train, test


@pytest.mark.parametrize("arguments", [{"num_words": 500}, {}], ids=str)
@pytest.mark.usefixtures("logical_devices")
def test_options_mean_what_they_mean_to_keras(
    write_npz: WriteNpz, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    rng = np.random.default_rng()
    parts: dict[str, Any] = {}
    for part, num_rows in (("train", 80), ("test", 50)):
        lengths = rng.integers(0, 60, num_rows)
        parts[f"x_{part}"] = [rng.integers(1, 900, length).tolist() for length in lengths]
        parts[f"y_{part}"] = rng.integers(0, 2, num_rows)
    path, keras_module = write_npz(**parts), importlib.import_module("keras.src.datasets.imdb")
    # Keras's own hash check admits its own file alone; its reading of this one is what counts.
    monkeypatch.setattr(keras_module, "get_file", lambda **_: str(path))
    expected = keras_module.load_data(**arguments)
    given = load_parts(path, ImdbOptions(split="standard", **{"num_words": None, **arguments}))
    for sets, (rows, labels) in zip(given, expected, strict=True):
        assert sets.lengths.tolist() == [len(row) for row in rows]
        np.testing.assert_array_equal(sets.values, np.concatenate(rows))
        np.testing.assert_array_equal(sets.labels, labels)


def test_the_default_split_holds_out_the_head_of_the_merged_set(write_npz: WriteNpz) -> None:
    path = write_npz()
    parts = load_parts(path)
    assert [part.num_rows for part in parts] == [4, 3]
    merged, num_test_rows = load_imdb(path, ImdbOptions(held_out_rows=5))
    assert (num_test_rows, merged.num_rows, merged.name) == (5, 7, "reviews")
    expected = RaggedSets.concatenate(parts, name="reviews")
    np.testing.assert_array_equal(merged.values, expected.values)
    np.testing.assert_array_equal(merged.labels, expected.labels)


# Keras's own folder and the download.


def test_a_download_is_kept_only_if_it_is_the_known_file(
    keras_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "served.npz").write_bytes(b"reviews")
    monkeypatch.setattr(imdb, "_URL", (tmp_path / "served.npz").as_uri())
    with pytest.raises(InputError, match=r"cannot be downloaded from .*: its SHA-256 is"):
        imdb_file()
    path = keras_home / "datasets" / "imdb.npz"
    assert list(path.parent.iterdir()) == []
    monkeypatch.setattr(imdb, "_SHA256", hashlib.sha256(b"reviews").hexdigest())
    assert imdb_file() == path
    assert path.read_bytes() == b"reviews"
    assert imdb_file() == path
    path.write_bytes(b"of somebody else")
    with pytest.raises(InputError, match=r"its SHA-256 is .*, not .* Remove it .* or .* data /"):
        load("imdb")
    assert f"to {path}\n" in capsys.readouterr().err


def test_neither_cached_nor_downloadable_names_the_ways_out(
    keras_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens on the discard port; the opener that urllib keeps may know another proxy.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)
    path = keras_home / "datasets" / "imdb.npz"
    remedy = f"Put imdb.npz at {path}, or pass --data path/to/imdb.npz, or use --data synthetic"
    with pytest.raises(InputError, match=f"refused.*{remedy}"):
        imdb_file()
    assert not path.exists()
    keras_home.rename(keras_home.with_name("elsewhere"))
    keras_home.write_text("in place of a folder")
    with pytest.raises(InputError, match=remedy):
        imdb_file()


# Files that are not what they should be.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, r"not an .npz file: .*no item named"),
        ({"x_train": [[1, 2], [3, "a"], [1], [2]]}, "row 1 of x_train is no list of ints"),
        ({"x_train": [np.zeros(2), [1], [1], [1]]}, "row 0 of x_train is no list of ints"),
        ({"x_train": []}, "x_train is not an array with a list of ints"),
        ({"x_train": [[1], [2, -4], [3], [4]]}, "part train: row 1 holds id -4"),
        ({"y_train": np.array([0.0, 1.0, np.nan, 0.0])}, "label nan of row 2"),
    ],
    ids=str,
)
def test_content_that_is_wrong(write_npz: WriteNpz, changes: dict[str, Any], message: str) -> None:
    path = write_npz(**changes)
    with pytest.raises(InputError, match=message) as caught:
        load_parts(path)
    assert str(path) in str(caught.value)


def test_too_few_rows_to_hold_out(write_npz: WriteNpz) -> None:
    with pytest.raises(InputError, match=r"7 rows, too few to hold out 10000.*--split=standard"):
        load_imdb(write_npz(), ImdbOptions())
