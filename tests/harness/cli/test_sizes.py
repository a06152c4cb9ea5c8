"""Sizes beyond any machine: one message, before anything is built."""

from pathlib import Path

import pytest

from tests.harness.cli.runs import SMALL, call, write_npz

MANY = 2**31 - 1
NO_ROOM = "error: the host's memory has "


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--hidden-units", MANY, "--dropout", 0],
            f"multi_hot_dense/kernel, float32 [1000, {MANY}",
        ),
        (["--hidden-units", 8000, MANY], NO_ROOM),
        (["--optimizer", "sgd", "--hidden-units", 10**9, 8], "GB for a copy while programs are"),
        (["--hidden-units", *[1] * 1001], "the number of --hidden-units is 1001; choose from 1 to"),
        (["--synthetic-rows", MANY], "4,032.1 GB for the synthetic rows. Set --synthetic-rows to"),
    ],
)
def test_flags(flags: list[object], message: str, tmp_path: Path) -> None:
    result = call("train", *SMALL, "--run-dir", tmp_path / "run", *flags)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert result.err.count("error: ") == 1
    assert "Traceback" not in result.err
    assert message in result.err
    assert not list(tmp_path.iterdir())


def test_ranks_up_to_2_to_the_31(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "reviews.npz", x_train=[[2**31 - 10, 5], [1, 2], [3], [4]])
    flags = ("--data", path, "--num-words", "None", "--split", "standard")
    info = call("data", "info", *flags)
    assert info.code == 0
    assert "2,147,483,641" in info.out
    result = call("train", *flags, "--batch-size", "2", "--run-dir", tmp_path / "run")
    assert result.code == 2
    assert (
        "429.5 GB for the variable multi_hot_dense/kernel, float32 [2147483641, 50]" in result.err
    )
    assert [file.name for file in tmp_path.iterdir()] == ["reviews.npz"]
