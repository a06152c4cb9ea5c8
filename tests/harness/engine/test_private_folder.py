"""Folders of a process: gone with it, or after it was killed with a later one."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.engine.private_folder import private_folder

OWNER = """
import sys
from harness.engine.private_folder import private_folder
print(private_folder("mine-"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    """A process with a folder that was made long ago, below the temporary folder of this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert folder.parent == tmp_path
    os.utime(folder, (0, 0))
    return process


def test_it_goes_with_its_process(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    assert len(list(tmp_path.iterdir())) == 1
    assert owner.communicate("")[0] == ""
    assert not list(tmp_path.iterdir())


def test_that_of_a_living_process_stays_and_of_a_killed_one_goes(
    owner: subprocess.Popen[str], tmp_path: Path
) -> None:
    (theirs,) = tmp_path.iterdir()
    (tmp_path / "other").mkdir()
    mine = private_folder("mine-")
    assert set(tmp_path.iterdir()) == {theirs, mine, tmp_path / "other"}
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    again = private_folder("mine-")
    assert set(tmp_path.iterdir()) == {mine, again, tmp_path / "other"}
