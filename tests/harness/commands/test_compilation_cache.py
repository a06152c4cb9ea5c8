"""Programs of one process, loaded by the next: the same losses, and no run that fails by them."""

import os
from pathlib import Path

import pytest

from kernels.multi_hot.native.build import CACHE_VARIABLE
from tests.harness.commands.disks import small_disk
from tests.harness.commands.runs import (
    SMALL,
    Result,
    call,
    command_line,
    environment,
    losses,
    run,
    summary,
)

ONE_EPOCH = (*SMALL, "--epochs", "1")


def train(folder: Path, cache: Path, *flags: object) -> Result:
    env = environment() | {CACHE_VARIABLE: str(cache)}
    command = command_line("train", *ONE_EPOCH, "--run-dir", folder, *flags)
    result = run(command, env=env)
    assert (result.code, result.err) == (0, ""), result
    return result


def cache_row(result: Result) -> str:
    (row,) = [line for line in result.out.splitlines() if line.startswith("XLA cache")]
    return row.removeprefix("XLA cache").strip()


def test_loaded_programs_train_alike_and_damaged_ones_are_compiled_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = train(tmp_path / "1", cache)
    assert cache_row(first) == "on (no programs of earlier runs with these settings)"
    programs = {path.name: path.stat().st_ino for path in cache.glob("xla-*/*")}
    assert len(programs) == 2, "training step and evaluation"

    second = train(tmp_path / "2", cache)
    assert cache_row(second) == "on (2 programs of earlier runs with these settings)"
    assert losses(tmp_path / "2") == losses(tmp_path / "1")
    assert {path.name: path.stat().st_ino for path in cache.glob("xla-*/*")} == programs
    found = [summary(tmp_path / name)["cached_programs"] for name in ("1", "2")]
    assert found == [0, 2]

    for path in cache.glob("xla-*/*"):
        os.truncate(path, path.stat().st_size // 2)
    third = train(tmp_path / "3", cache)
    assert cache_row(third).endswith("settings; 2 damaged files removed)")
    assert losses(tmp_path / "3") == losses(tmp_path / "1")
    # XLA's own names of them; their content differs from one compilation to another.
    assert {path.name[65:] for path in cache.glob("xla-*/*")} == {name[65:] for name in programs}


def test_off(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    result = train(tmp_path / "off", cache, "--compilation-cache", "off")
    assert cache_row(result) == "off (asked for)"
    # A profile shows names that loaded programs have lost.
    profiled = train(tmp_path / "profiled", cache, "--profile-steps", "0:4")
    assert cache_row(profiled) == "off (its programs have lost the names that a profile shows)"
    assert not list(cache.glob("xla-*"))


def test_asked_for_by_name_it_is_on_or_refused(tmp_path: Path) -> None:
    on = train(tmp_path / "on", tmp_path / "cache", "--compilation-cache", "on")
    assert cache_row(on).startswith("on (")
    flags = ("--compilation-cache", "on", "--profile-steps", "0:4", "--run-dir", tmp_path / "not")
    refused = call("train", *ONE_EPOCH, *flags)
    assert refused.code == 2
    assert refused.err.startswith("error: --compilation-cache on cannot be had: its programs have ")
    assert not (tmp_path / "not").exists()


def test_a_process_that_used_tensorflow_before_says_that_it_is_off(trained_folder: Path) -> None:
    result = call(
        "train", *ONE_EPOCH, "--overwrite", "--run-dir", trained_folder.with_name("again")
    )
    assert cache_row(result) == "off (TensorFlow was used in this process before)"


def test_a_cache_that_cannot_be_written_to_is_no_reason_to_fail(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.touch()
    row = cache_row(train(tmp_path / "run", cache))
    assert row == "off (no folder for it can be written to; name one in MULTI_HOT_CACHE)"


@pytest.mark.parametrize("room_bytes", [0, 30_000])
def test_a_full_disk_under_the_cache_is_told_and_no_reason_to_fail(
    tmp_path: Path, room_bytes: int
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    with small_disk(cache, 2**16, "mode=700"):
        (cache / "other").write_bytes(bytes(2**16 - 2**12 * (room_bytes // 2**12)))
        result = train(tmp_path / "run", cache)
        assert not list(cache.glob("xla-*/*"))
    if room_bytes:
        assert "note: what XLA has compiled is not kept for later runs: " in result.out
        assert "No space left on device" in result.out
