"""`harness launch`: wrong input is reported before anything starts, and a run is replaced."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.harness.cli.runs import SMALL, call, command_line, environment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "launch starts train alone; give its options behind --"),
        (("--", "evaluate", "model.keras"), "launch starts train alone"),
        (("--workers", "0", "--", "train"), "--workers is 0"),
        (("--", "train", "--epochs", "0"), "--epochs is 0"),
        (("--", "train", "--no-such-flag"), "--no-such-flag"),
    ],
)
def test_wrong_use_starts_nothing(arguments: tuple[str, ...], message: str) -> None:
    result = call("launch", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_two_workers_replace_a_run(tmp_path: Path) -> None:
    """All of them compile before the chief clears the folder: a program's trial run sums over
    them."""
    train = ("train", *SMALL, "--data", "synthetic", "--epochs", "1", "--run-dir", tmp_path / "run")
    assert call(*train).code == 0
    launch = command_line("launch", "--workers", "2", "--", *train, "--overwrite")
    done = subprocess.run(
        launch, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["workers"] == 2
