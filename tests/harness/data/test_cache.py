"""A data set that was read once is mapped from then on; faults of a cache are reported, and cost
only time."""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data import cache
from harness.data.options import ImdbOptions
from harness.data.ragged import mapping_of
from harness.data.sources import Dataset, load

WriteNpz = Callable[..., Path]
OPTIONS = ImdbOptions(held_out_rows=2)
PADDING = np.zeros(cache.MIN_SOURCE_BYTES, np.uint8)
"""An array that makes any file large enough, as a member that nobody reads."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keras_home: Path) -> Path:
    """Returns the test's own folder of the data cache, which does not exist yet."""
    monkeypatch.setenv("MULTI_HOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def source(folder: Path, write_npz: WriteNpz) -> Path:
    return write_npz(padding=PADDING)


def cached(path: Path, **changes: Any) -> Dataset:
    options: dict[str, Any] = {"imdb": OPTIONS} | changes
    return load(path, **options)


def plain(path: Path, **changes: Any) -> Dataset:
    return cached(path, use_cache=False, **changes)


def is_mapped(dataset: Dataset) -> bool:
    return mapping_of(dataset.train.values) is not None


def assert_same(a: Dataset, b: Dataset) -> None:
    for part, other in ((a.train, b.train), (a.test, b.test)):
        for name in ("values", "row_splits", "labels"):
            np.testing.assert_array_equal(getattr(part, name), getattr(other, name))
            assert getattr(part, name).dtype == getattr(other, name).dtype
        for name in ("num_tokens", "num_classes", "name", "is_unique", "fingerprint"):
            assert getattr(part, name) == getattr(other, name)
    assert a.name == b.name


@pytest.mark.parametrize(
    ("options", "unique"),
    [(OPTIONS, True), (ImdbOptions(split="standard", num_words=9), False)],
)
def test_the_second_time_the_same_is_mapped(
    source: Path,
    folder: Path,
    options: ImdbOptions,
    unique: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = plain(source, imdb=options, unique=unique)
    assert not folder.exists()
    first = cached(source, imdb=options, unique=unique)
    second = cached(source, imdb=options, unique=unique)
    assert is_mapped(second)
    assert capsys.readouterr().err == ""
    assert_same(first, expected)
    assert_same(second, expected)
    assert len(list(folder.iterdir())) == 1


def test_other_content_options_and_names_are_other_entries(
    source: Path, folder: Path, write_npz: WriteNpz
) -> None:
    cached(source)
    cached(source, unique=False)
    cached(source, imdb=ImdbOptions(held_out_rows=3))
    # As many rows in a file of the same name, size and time.
    times = source.stat()
    write_npz(padding=PADDING, x_test=[[7], [1, 1, 2], [2, 8]])
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert source.stat().st_size == times.st_size
    changed = cached(source)
    assert_same(changed, plain(source))
    renamed = cached(source.rename(source.with_name("other.npz")))
    assert (renamed.name, renamed.train.fingerprint) == ("other", changed.train.fingerprint)
    assert len(list(folder.iterdir())) == 5


def flip_a_label(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])


def rename_in_meta(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "another"}))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("labels.npy", flip_a_label),  # which is as valid
        ("meta.json", rename_in_meta),
    ],
)
def test_a_damaged_entry_is_said_and_made_anew(
    source: Path,
    folder: Path,
    file: str,
    damage: Callable[[Path], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = plain(source)
    cached(source)
    (entry,) = folder.iterdir()
    damage(entry / file)
    assert_same(cached(source), expected)
    note = f"note: the cached data set {entry} was damaged; {source} was read again\n"
    assert capsys.readouterr().err == note
    mended = cached(source)
    assert_same(mended, expected)
    assert is_mapped(mended)
    assert capsys.readouterr().err == ""


def test_what_was_used_last_stays_when_room_is_needed(source: Path, folder: Path) -> None:
    cached(source)
    (used,) = folder.iterdir()
    now = time.time()
    for name, seconds_ago in (("older", 300), ("old", 200)):
        (folder / name).mkdir()
        with (folder / name / "values.npy").open("wb") as file:
            file.truncate(cache.MAX_BYTES // 2 - 5_000)  # sparse: it takes no room
        os.utime(folder / name, (now - seconds_ago,) * 2)
    os.utime(used, (now - 400,) * 2)
    assert is_mapped(cached(source))
    cached(source, unique=False)  # for which there is room
    (new,) = {path.name for path in folder.iterdir()} - {used.name, "older", "old"}
    os.truncate(folder / "old" / "values.npy", cache.MAX_BYTES // 2 + 5_000)
    cached(source, imdb=ImdbOptions(held_out_rows=3))  # for which there is none
    left = {path.name for path in folder.iterdir()}
    assert left > {used.name, new, "old"}
    assert len(left) == 4


def test_two_that_load_at_once(source: Path, folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = [*pool.map(cached, [source, source])]
    for found in (*both, cached(source)):
        assert_same(found, plain(source))
    assert len(list(folder.glob("[!.]*"))) == 1
    assert is_mapped(found)
