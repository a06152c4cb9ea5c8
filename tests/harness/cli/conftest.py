"""What the commands' tests share: one small run that most of them look at, none changes."""

from pathlib import Path

import pytest

from tests.harness.cli.runs import SMALL, Result, call


@pytest.fixture(scope="session", autouse=True)
def _two_devices(logical_devices: list[str]) -> None:
    """Before any command starts TensorFlow with one device only."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder of a finished run with the flags `SMALL`, and what the command came to."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, call("train", *SMALL, "--precision", "float32", "--run-dir", folder)


@pytest.fixture(scope="session")
def trained_folder(trained: tuple[Path, Result]) -> Path:
    """The folder of the finished run."""
    return trained[0]
