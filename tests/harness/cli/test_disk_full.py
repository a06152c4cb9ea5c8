"""Disks that really run full: exit code 2, a message with the file, nothing half-written."""

import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.faults import injector
from tests.harness.cli.disks import small_disk
from tests.harness.cli.runs import (
    SMALL,
    Result,
    call,
    environment,
    losses,
    records,
    run,
)

FINAL_NAMES = {"config.json", "metrics.jsonl", "tensorboard", "checkpoints"}


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
    assert {path.name for path in folder.iterdir()} <= FINAL_NAMES
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


def test_no_room_for_windows(tmp_path: Path) -> None:
    # The event file or metrics.jsonl, whichever is written first.
    flags = ("--steps-per-dispatch", "1", "--run-dir", tmp_path)
    result = limited(10_000, "train", *SMALL, *flags)
    check_refusal(result, str(tmp_path), "limit is reached", "File too large")
    check_nothing_is_half_written(tmp_path)
    assert records(tmp_path)


def test_no_room_for_a_checkpoint(tmp_path: Path) -> None:
    result = limited(20_000, "train", *SMALL, "--run-dir", tmp_path)
    check_refusal(result, str(tmp_path / "checkpoints" / "ckpt-16.npz"), "File too large")
    check_nothing_is_half_written(tmp_path)
    assert [record["step"] for record in records(tmp_path)] == [4, 8, 12, 16, 16]


# The limit comes when the model's file is opened: the checkpoints before it are longer.
LIMIT_THE_MODEL = """
import resource, sys

def limit(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".keras"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

sys.addaudithook(limit)
from harness.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_no_room_for_the_model(tmp_path: Path) -> None:
    arguments = ("train", *SMALL, "--epochs", "1", "--run-dir", str(tmp_path))
    result = run([sys.executable, "-c", LIMIT_THE_MODEL, *arguments])
    check_refusal(result, str(tmp_path / "model.keras"), "File too large")
    check_nothing_is_half_written(tmp_path)
    assert (tmp_path / "checkpoints" / "ckpt-16.npz").exists()
    # All steps are done: what is missing is the model, and the summary of it all.
    completed = call(*arguments, "--resume")
    assert (completed.code, completed.err) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {
        *FINAL_NAMES,
        "model.keras",
        "summary.json",
    }


def room_bytes(*paths: Path) -> int:
    """Returns the bytes that files take on a disk of whole pages."""
    pages = [-(-path.stat().st_size // resource.getpagesize()) for path in paths]
    return sum(pages) * resource.getpagesize()


def test_no_room_on_the_disk(trained_folder: Path, tmp_path: Path) -> None:
    files = {path.name: path for path in trained_folder.rglob("*") if path.is_file()}
    last = {"model.keras", "summary.json"}
    before_the_model = room_bytes(*(path for name, path in files.items() if name not in last))
    with small_disk(tmp_path, before_the_model - room_bytes(files["ckpt-32.npz"]) // 2):
        folder = tmp_path / "run"
        result = call("train", *SMALL, "--run-dir", folder)
        place = str(folder / "checkpoints" / "ckpt-32.npz")
        check_refusal(result, place, "disk is full", "No space left on device")
        check_nothing_is_half_written(folder)
        assert [path.stem for path in folder.rglob("ckpt-*.npz")] == ["ckpt-16"]


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


def test_a_disk_that_is_read_only_under_the_event_files(tmp_path: Path) -> None:
    board = tmp_path / "board"
    board.mkdir()
    with small_disk(board, 10**6, "ro"):
        flags = ("--run-dir", tmp_path / "run", "--tensorboard", board)
        check_refusal(call("train", *SMALL, *flags), str(board), "cannot be written to")
    assert not (tmp_path / "run").exists()


# `harness`, whose call number `at` that changes a file in `folder` fails as on a broken disk.
ON_A_BROKEN_DISK = """
import sys
from pathlib import Path
from benchmarks.faults.injector import Fault, arm
folder, log, at, *arguments = sys.argv[1:]
arm(Path(folder), Path(log), Fault(action="fail", at=int(at)))
from harness.cli.main import main
sys.exit(main(arguments))
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, to build what makes faults")
def test_a_disk_that_breaks(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    paths = (str(tmp_path / "disk"), str(tmp_path / "log"))
    out = str(tmp_path / "disk" / "own")
    command = ("data", "convert", "--synthetic-rows", "200", "--synthetic-tokens", "100")
    loading = environment() | injector.loading(injector.build(tmp_path))
    for at in (1, 5):
        program = [sys.executable, "-c", ON_A_BROKEN_DISK, *paths, str(at), *command, "--out", out]
        broken = run(program, env=loading)
        assert broken.code == 1
        assert broken.err.startswith(f"error: {out}")
        assert "(Input/output error)" in broken.err
        assert broken.err.count("\n") == 1
        assert not list((tmp_path / "disk").iterdir())
    assert {call.name for call in injector.calls(tmp_path / "log")} >= {"mkdir", "create", "write"}


def test_no_room_for_converted_data(tmp_path: Path) -> None:
    with small_disk(tmp_path, 200_000):
        out = tmp_path / "own"
        result = call("data", "convert", "--synthetic-rows", "2000", "--out", out)
        check_refusal(result, str(tmp_path), "the disk is full", "No space left on device")
        assert not list(tmp_path.iterdir())


def test_no_room_for_a_profile(tmp_path: Path) -> None:
    flags = ("--steps", "4", "--warm-up", "4", "--profile-dir", tmp_path)
    result = limited(20_000, "profile", *SMALL, *flags)
    assert (result.code, result.err.count("\n")) == (2, 1), result
    assert "limit is reached" in result.err
    assert str(tmp_path) in result.err
    assert not list(tmp_path.rglob("*.pb"))
