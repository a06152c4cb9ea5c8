"""Sizes beyond any machine: one message, before anything is built."""

from pathlib import Path

import pytest

from tests.harness.cli.runs import SMALL, call

MANY = 2**31 - 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--hidden-units", MANY, "--dropout", 0],
            f"multi_hot_dense/kernel, float32 [1000, {MANY}",
        ),
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
