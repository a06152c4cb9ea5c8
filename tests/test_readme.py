"""Every command and every piece of code in README, run as a reader would."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.config import TrainConfig
from harness.config.mapping import from_mapping

PROJECT_ROOT = Path(__file__).resolve().parent.parent
README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = {
    "./scripts/test": "it is what runs this test",
    "./scripts/harness tensorboard runs": "it never ends: tests/browser/ looks at what it serves",
    "./scripts/harness smoke": "tests/harness/commands/test_smoke.py runs it",
}
"""Commands that other tests run, and where."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The shell blocks' commands, and those within the text, without their comments."""
    joined = "".join(blocks("sh")).replace("\\\n", " ")
    listed = [shlex.join(shlex.split(line, comments=True)) for line in joined.splitlines() if line]
    return listed + re.findall(r"`(\./scripts/harness train --data mine[^`]*)`", README)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a reader works in; the commands of README follow one another there."""
    return tmp_path_factory.mktemp("reader")


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    if words[0].startswith("./scripts/"):
        words[0] = str(PROJECT_ROOT / words[0])
    return subprocess.run(
        words,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_python(reader: Path) -> None:
    for block in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=reader,
            env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_toml() -> None:
    (content,) = blocks("toml")
    settings = from_mapping(TrainConfig, tomllib.loads(content), where="README")
    assert settings.model.hidden_units == (128, 64)


def test_what_is_linked_is_there() -> None:
    linked = [PROJECT_ROOT / path for path in re.findall(r"\]\(([\w./-]+)\)", README)]
    assert [path for path in linked if not path.exists()] == []
    pictures = [path for path in linked if path.suffix == ".png"]
    assert pictures
    assert [path for path in pictures if path.stat().st_size > 200_000] == []


@pytest.mark.parametrize("command", [c for c in commands() if c not in ELSEWHERE])
def test_command(command: str, reader: Path, request: pytest.FixtureRequest) -> None:
    environment = {}
    if "imdb" in command:
        data = request.getfixturevalue("imdb_path").parent
        command = command.replace("path/to/", f"{data}/")
        # Keras's cache, as if it had downloaded the file.
        cache = reader / "keras" / "datasets"
        cache.mkdir(parents=True, exist_ok=True)
        if not (cache / "imdb.npz").exists():
            (cache / "imdb.npz").symlink_to(data / "imdb.npz")
        environment["KERAS_HOME"] = str(reader / "keras")
    done = run(command, reader, **environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
