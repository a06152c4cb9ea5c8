"""The fixtures of the commands' tests: a small run that most of them read, and none changes."""

from pathlib import Path

import pytest

from tests.harness.cli.runs import SMALL, Result, call


@pytest.fixture(scope="session", autouse=True)
def _two_devices(logical_devices: list[str]) -> None:
    """Sets up two devices before any command starts TensorFlow with only one."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Returns the folder of a finished run with the flags `SMALL`, and the command's result."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, call("train", *SMALL, "--precision", "float32", "--run-dir", folder)


@pytest.fixture(scope="session")
def trained_folder(trained: tuple[Path, Result]) -> Path:
    """Returns the folder of the finished run."""
    return trained[0]
