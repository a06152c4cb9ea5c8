"""Keras's own folder and its download."""

import urllib.request
from pathlib import Path

import pytest

from harness.data import keras_cache
from harness.errors import InputError


def test_keras_home_is_where_keras_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "own"))
    assert keras_cache.cached_file("imdb.npz") == tmp_path / "own" / "datasets" / "imdb.npz"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keras_cache.cached_file("imdb.npz") == tmp_path / ".keras" / "datasets" / "imdb.npz"


def test_the_cached_file_is_used(keras_home: Path) -> None:
    cached = keras_home / "datasets" / "imdb.npz"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"")
    assert keras_cache.imdb_file() == cached


@pytest.mark.usefixtures("logical_devices")
def test_neither_cached_nor_downloadable_names_the_ways_out(
    keras_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens on the discard port; the opener that urllib keeps may know another proxy.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)
    with pytest.raises(InputError) as caught:
        keras_cache.imdb_file()
    message = str(caught.value)
    path = keras_home / "datasets" / "imdb.npz"
    assert f"Put imdb.npz at {path}, or pass --data path/to/imdb.npz, or use --data synthetic" in (
        message
    )
    assert "refused" in message
    assert not path.exists()


@pytest.mark.usefixtures("logical_devices")
def test_a_cache_that_cannot_be_made_names_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"Put imdb\.npz at .*--data synthetic"):
        keras_cache.imdb_file()
