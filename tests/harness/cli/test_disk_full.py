"""Disks that really run full: exit code 2, a message with the file, nothing half-written."""

import contextlib
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.harness.cli.runs import (
    SMALL,
    Result,
    call,
    command_line,
    environment,
    losses,
    names_in,
    records,
    run,
)

FINAL_NAMES = {"config.json", "metrics.jsonl", "checkpoints"}


@contextlib.contextmanager
def small_disk(place: Path, size_bytes: int, *options: str) -> Iterator[None]:
    """Mounts a file system of a size; skips the test if mounting is not allowed."""
    all_options = ",".join((f"size={size_bytes}", *options))
    command = ["mount", "-t", "tmpfs", "-o", all_options, "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def limited(limit_bytes: int, *arguments: object) -> Result:
    """Runs `harness ARGUMENTS` under the kernel's real limit on the length of each file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        return call(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def check_refusal(result: Result, place: str, *reasons: str) -> None:
    assert result.code == 2, result
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert place in result.err
    assert all(reason in result.err for reason in reasons)


def check_nothing_is_half_written(folder: Path) -> None:
    assert names_in(folder) <= FINAL_NAMES | {"events"}
    records(folder)  # each line is whole
    checkpoints = folder / "checkpoints"
    if not checkpoints.exists():
        return
    for path in checkpoints.iterdir():
        assert path.name.startswith("ckpt-")
        with np.load(path) as checkpoint:
            for name in checkpoint.files:
                array = checkpoint[name]
                assert array.dtype.kind == "S" or np.isfinite(array).all()


def test_no_room_for_a_checkpoint(tmp_path: Path) -> None:
    result = limited(20_000, "train", *SMALL, "--run-dir", tmp_path)
    check_refusal(result, str(tmp_path / "checkpoints" / "ckpt-16.npz"), "File too large")
    check_nothing_is_half_written(tmp_path)
    assert [record["step"] for record in records(tmp_path)] == [4, 8, 12, 16, 16]


def test_no_room_under_the_event_files_alone(tmp_path: Path) -> None:
    """The run ends with a message; the files on the other disk are whole, and can be resumed."""
    board, folder = tmp_path / "board", tmp_path / "run"
    board.mkdir()
    # This is twice the room of the first epoch, however many of its windows telemetry samples, and
    # a fourth of the room of all epochs.
    with small_disk(board, 8 * resource.getpagesize()):
        flags = ("--steps-per-dispatch", "1", "--run-dir", folder)
        full = call("train", *SMALL, *flags, "--epochs", "20", "--tensorboard", board)
        check_refusal(full, str(board), "the disk is full", "No space left on device")
        check_nothing_is_half_written(folder)
        (events,) = board.iterdir()
        assert EventAccumulator(str(events)).Reload().Tags()["tensors"], "what was written is whole"
        epochs = 1 + len({line["epoch"] for line in records(folder) if "validation_loss" in line})
        on = call("train", *SMALL, *flags, "--epochs", epochs, "--resume", "--tensorboard", "off")
    assert (on.code, on.err) == (0, "")
    assert "resumed after step" in on.out
    assert [step for step, _ in losses(folder)] == [
        step
        for start in range(0, 16 * epochs, 16)
        for step in (*range(start + 1, start + 17), start + 16)
    ]


def test_no_room_for_converted_data(tmp_path: Path) -> None:
    with small_disk(tmp_path, 200_000):
        out = tmp_path / "own"
        result = call("data", "convert", "--synthetic-rows", "2000", "--out", out)
        check_refusal(result, str(tmp_path), "the disk is full", "No space left on device")
        assert not list(tmp_path.iterdir())


def test_no_room_for_a_study(tmp_path: Path) -> None:
    with small_disk(tmp_path, 20_000):
        flags = ("--trials", "1", "--run-dir", tmp_path / "tune")
        result = run(command_line("tune", *SMALL[:4], *flags))  # whose end closes the study
        check_refusal(result, str(tmp_path / "tune" / "study.db"), "the disk is full")


def test_no_room_for_a_profile(tmp_path: Path) -> None:
    with small_disk(tmp_path, 40_000):
        flags = ("--steps", "4", "--warm-up", "0", "--run-dir", tmp_path / "profile")
        result = call("profile", *SMALL, *flags)
        check_refusal(result, str(tmp_path / "profile"), "the disk is full")
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_room_for_temporary_files(tmp_path: Path) -> None:
    table, disk = tmp_path / "texts.csv", tmp_path / "disk"
    disk.mkdir()
    table.write_text("text,label\n" + "a good film,yes\na bad film,no\n" * 5_000)
    with small_disk(disk, 20_000):
        environ = environment() | {"TMPDIR": str(disk)}
        result = run(command_line("data", "info", "--data", table, "--data-cache=off"), env=environ)
        check_refusal(result, str(disk), "the disk is full", "No space left on device")
