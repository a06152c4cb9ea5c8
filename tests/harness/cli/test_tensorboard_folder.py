"""`--tensorboard DIR`: the event files go there, in place of others only with --overwrite."""

from pathlib import Path

from tests.harness.cli.runs import SMALL, call
from tests.harness.cli.test_resume import curves


def steps(folder: Path) -> list[int]:
    """Returns the steps of `train/loss`."""
    return [step for step, tag in curves(folder) if tag == "train/loss"]


def test_a_folder_of_its_own(tmp_path: Path) -> None:
    run, board = tmp_path / "run", tmp_path / "deep" / "board"
    flags = ("train", *SMALL, "--epochs", "1", "--tensorboard", board, "--run-dir")
    first = call(*flags, run)
    assert first.code == 0, first
    assert f"harness tensorboard {board}" in first.out
    assert not list(run.glob("events*"))
    assert steps(board) == [4, 8, 12, 16]
    mine = board / "mine"
    mine.write_text("not an event file")

    # Another run may not write there, nor the same one afresh.
    other = call(*flags, tmp_path / "other")
    assert other.code == 2
    assert f"{board} already holds event files (events.out" in other.err
    assert not (tmp_path / "other").exists()

    # Its own are replaced, and gone on with.
    assert call(*flags, run, "--overwrite").code == 0
    assert steps(board) == [4, 8, 12, 16]
    assert call(*flags, run, "--resume", "--epochs", "2").code == 0
    assert steps(board) == [4, 8, 12, 16, 20, 24, 28, 32]
    assert mine.read_text() == "not an event file"
