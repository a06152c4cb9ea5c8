"""The sides of a comparison: a checkout, a revision, a file or words of settings; and the grid."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from harness.base.errors import InputError
from harness.tools.bench import measure
from harness.tools.bench.measure import cells, find_baseline, provenance
from harness.tools.bench.results import AXES, Cell


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


def test_the_state_of_the_code(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "OWN_CODE", tmp_path)
    assert provenance()["versions"]["commit"] == "unknown"
    monkeypatch.setattr(measure, "OWN_CODE", repository)
    commit = git(repository, "rev-parse", "HEAD")
    assert provenance()["versions"]["commit"] == commit
    (repository / "file").write_text("changed")
    assert provenance()["versions"]["commit"] == f"{commit}-dirty"


def test_a_revision_is_unpacked(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "OWN_CODE", repository)
    (repository / "file").write_text("changed since")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = find_baseline("HEAD", scratch=scratch)
    assert found.code.name == git(repository, "rev-parse", "HEAD")
    assert (found.code / "file").read_text() == "measurable"
    with pytest.raises(InputError, match=r"has no harness\.cli\.measured"):
        find_baseline("HEAD~1", scratch=scratch)
    for wrong in ("HEAD~2", "no such branch", "--all"):
        with pytest.raises(InputError, match="no folder, file or revision"):
            find_baseline(wrong, scratch=scratch)


def test_a_checkout_is_taken_as_it_is(repository: Path, tmp_path: Path) -> None:
    assert find_baseline(str(repository), scratch=tmp_path).code == repository


def test_settings_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("seed = 1\n[model]\nhidden-units = [8, 8]\n")
    found = find_baseline(str(path), scratch=tmp_path)
    assert found.settings == {"seed": 1, "hidden_units": [8, 8]}


GRID = dict.fromkeys(AXES, ("auto",)) | {
    "batch_size": (100, 200, 100),
    "implementation": ("gather", "dense"),
    "replicas": ("auto", 2),
}


def test_every_combination_is_a_cell() -> None:
    planned = cells(GRID)
    assert len(planned) == len(set(planned)) == 8
    first = Cell(
        batch_size=100,
        implementation="gather",
        precision="auto",
        input="auto",
        replicas="auto",
        steps_per_dispatch="auto",
    )
    assert planned[0] == first
    last = {"batch_size": 200, "implementation": "dense", "replicas": 2}
    assert planned[-1] == dataclasses.replace(first, **last)
