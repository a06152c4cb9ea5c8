"""`harness launch` reports wrong input before anything starts."""

import pytest

from harness.cli.launch import without_resume
from tests.harness.cli.runs import call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "launch starts train alone; give its options behind --"),
        (("--", "evaluate", "model.keras"), "launch starts train alone"),
        (("--workers", "0", "--", "train"), "--workers is 0"),
        (("--restarts", "-1", "--", "train"), "--restarts is -1"),
        (("--restarts", "1", "--", "train"), "--restarts needs the --run-dir of train"),
        (("--", "train", "--epochs", "0"), "--epochs is 0"),
        (("--hosts", "/nonexistent", "--", "train"), "/nonexistent cannot be read"),
        (("--", "train", "--no-such-flag"), "--no-such-flag"),
    ],
)
def test_wrong_use_starts_nothing(arguments: tuple[str, ...], message: str) -> None:
    result = call("launch", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_a_restart_changes_nothing_but_what_becomes_of_the_run() -> None:
    words = ("train", "--input", "auto", "--resume", "auto", "--overwrite", "--run-dir", "r")
    assert without_resume(words) == ["train", "--input", "auto", "--run-dir", "r"]
    words = ("train", "--resume", "--replicas", "auto", "--resume=auto")
    assert without_resume(words) == ["train", "--replicas", "auto"]
