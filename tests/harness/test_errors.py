"""Commands in messages, by the name that the user called the harness by."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import as_command


def test_through_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_COMMAND", "./scripts/harness")
    assert as_command("doctor") == "./scripts/harness doctor"
    monkeypatch.setenv("HARNESS_COMMAND", "/my projects/scripts/harness")
    assert shlex.split(as_command("doctor")) == ["/my projects/scripts/harness", "doctor"]


def test_on_the_path_or_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HARNESS_COMMAND", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    words = shlex.split(as_command("--version"))
    assert words == [sys.executable, "-m", "harness", "--version"]
    assert subprocess.run(words, capture_output=True, check=True).stdout.startswith(b"harness ")
    (tmp_path / "harness").touch(mode=0o755)
    assert as_command("doctor") == "harness doctor"
