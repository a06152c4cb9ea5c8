"""The values of --against: a checkout, a revision, a file of settings, or words of settings."""

import subprocess
from pathlib import Path

import pytest

from harness.base.errors import InputError
from harness.tools.bench import against
from harness.tools.bench.against import code_state, find_baseline, settings_of_words


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Makes a repository with a commit that can be measured, and one before it that cannot."""
    folder = tmp_path / "repository"
    measured = folder / "harness" / "cli" / "measured.py"
    measured.parent.mkdir(parents=True)
    for text in ("not measurable", "measurable"):
        if text == "measurable":
            measured.write_text(text)
        (folder / "file").write_text(text)
        git(folder, "init", "-q")
        git(folder, "add", ".")
        git(folder, "commit", "-qm", text)
    return folder


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_state_of_the_code(repository: Path, tmp_path: Path) -> None:
    assert code_state(tmp_path) == {"commit": None, "dirty": None}
    commit = git(repository, "rev-parse", "HEAD")
    assert code_state(repository) == {"commit": commit, "dirty": False}
    (repository / "file").write_text("changed")
    assert code_state(repository) == {"commit": commit, "dirty": True}


def test_a_revision_is_unpacked_and_named_by_its_commit(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(against, "OWN_CODE", repository)
    (repository / "file").write_text("changed since")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found, name = find_baseline("HEAD", (), scratch=scratch)
    assert name == found.state["commit"] == git(repository, "rev-parse", "HEAD")
    assert (found.code / "file").read_text() == "measurable"
    with pytest.raises(InputError, match=r"has no harness\.cli\.measured"):
        find_baseline("HEAD~1", (), scratch=scratch)
    for wrong in ("HEAD~2", "no such branch", "--all"):
        with pytest.raises(InputError, match="not a folder, a file, or a git revision"):
            find_baseline(wrong, (), scratch=scratch)


def test_a_checkout_is_taken_as_it_is(repository: Path, tmp_path: Path) -> None:
    (repository / "file").write_text("changed")
    found, name = find_baseline(str(repository), (), scratch=tmp_path)
    assert (name, found.code, found.state["dirty"]) == (str(repository), repository, True)


def test_settings_of_a_file_and_of_words(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("seed = 1\n[model]\nhidden-units = [8, 8]\n")
    found, _ = find_baseline(str(path), (), scratch=tmp_path)
    assert found.settings == {"seed": 1, "hidden_units": [8, 8]}
    words = ("hidden-units=[8, 8]", "implementation=gather", "seed=1")
    expected = {"hidden_units": [8, 8], "implementation": "gather", "seed": 1}
    assert settings_of_words(words) == expected


@pytest.mark.parametrize("word", ["colour", "=red"])
def test_words_that_set_nothing(word: str) -> None:
    with pytest.raises(InputError, match="write name=value"):
        settings_of_words((word,))
