"""A data set that was read once is mapped from then on; faults of a cache are reported, and cost
only time."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from glob import glob
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


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("options", [OPTIONS, ImdbOptions(split="standard", num_words=9)])
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


LOADS = """
import sys
from harness.data.sources import load
from harness.data.options import ImdbOptions
sys.stdin.read()
print(load(sys.argv[1], imdb=ImdbOptions(split="standard")).train.fingerprint)
"""


def test_two_processes_at_once_after_one_that_was_killed_while_it_wrote(
    write_npz: WriteNpz, folder: Path
) -> None:
    rows = [list(range(start, start + 500)) for start in range(4000)]
    source = write_npz(x_train=rows, y_train=np.arange(4000) % 2)
    command, pipe = [sys.executable, "-c", LOADS, str(source)], subprocess.PIPE
    with contextlib.ExitStack() as stack:
        killed, *both = (
            stack.enter_context(
                subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
            )
            for _ in range(3)
        )
        assert killed.stdin is not None
        killed.stdin.close()
        while killed.poll() is None and not glob(f"{folder}/.*/*"):
            time.sleep(0.001)
        killed.kill()
        killed.wait()
        with ThreadPoolExecutor() as pool:
            outcomes = list(pool.map(lambda process: process.communicate("go"), both))
    expected = plain(source, imdb=ImdbOptions(split="standard"))
    assert outcomes == [(f"{expected.train.fingerprint}\n", "")] * 2
    assert len(list(folder.glob("[!.]*"))) == 1
    mapped = cached(source, imdb=ImdbOptions(split="standard"))
    assert is_mapped(mapped)
    assert_same(mapped, expected)
