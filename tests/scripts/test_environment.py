"""scripts/environment.sh at work: real bash, venv and pip on a project with tiny dependencies."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TINY_PROJECT = Path(__file__).resolve().parent / "tiny_project"
INSTALLING = "installing "


@pytest.fixture(scope="module", autouse=True)
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project before its first call. pip finds the packages that it locks in a folder alone."""
    root = tmp_path_factory.mktemp("template") / "project"
    shutil.copytree(TINY_PROJECT, root)
    shutil.copytree(SCRIPTS, root / "scripts")
    (root / "requirements").mkdir()
    spec = importlib.util.spec_from_file_location("backend", root / "backend.py")
    assert spec is not None
    assert spec.loader is not None
    backend = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(backend)
    for lock, package in (("base", "needed"), ("test", "extra"), ("cuda", "fast")):
        wheel = root.parent / backend.write_wheel(root.parent, package, {f"{package}.py": ""})
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        locked = f"{package}==1 --hash=sha256:{digest}\n"
        (root / "requirements" / f"{lock}.txt").write_text(locked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", root.parent.as_uri())
        yield root


def call(
    script: Path, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def folder_of_programs(folder: Path, *names: str) -> Path:
    """A PATH that holds these programs alone."""
    folder.mkdir()
    for name in names:
        program = shutil.which(name)
        assert program is not None
        (folder / name).symlink_to(program)
    return folder


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture(scope="module")
def installed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after its first call; its path has a space. Each test leaves it installed."""
    root = shutil.copytree(template, tmp_path_factory.mktemp("first call") / "the project")
    first = call(root / "scripts" / "harness", "a b", "", cwd=root.parent)
    assert first.returncode == 0, first.stderr
    begin, *_, progress, end = first.stderr.splitlines()
    assert begin.startswith(INSTALLING)
    assert begin.endswith("(once, 2.4 GB, some minutes) ...")
    assert progress == "base: unpacking 1 packages"
    assert re.fullmatch(r"installed after \d+ s; .venv takes \S+", end)
    assert json.loads(first.stdout) == {"arguments": ["a b", ""], "folder": str(root.parent)}
    assert call(root / ".venv" / "bin" / "python", "-c", "import needed").returncode == 0
    return root


def test_second_call_needs_no_program_but_the_shells_own(installed: Path, tmp_path: Path) -> None:
    programs = folder_of_programs(tmp_path / "bin", "bash", "dirname", "readlink")
    second = call(installed / "scripts" / "harness", "x", cwd=tmp_path, PATH=str(programs))
    assert (second.returncode, second.stderr) == (0, "")
    assert json.loads(second.stdout) == {"arguments": ["x"], "folder": str(tmp_path)}
    link = tmp_path / "harness"
    link.symlink_to(installed / "scripts" / "harness")
    assert call(link, "fail").returncode == 7


def test_a_change_is_installed(installed: Path) -> None:
    lock = installed / "requirements" / "base.txt"
    lock.write_text(lock.read_text() + "# changed\n")
    assert INSTALLING in call(installed / "scripts" / "harness").stderr
    assert call(installed / "scripts" / "harness").stderr == ""


def test_cuda_is_added_once_nvidia_smi_answers(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    python = installed / ".venv" / "bin" / "python"

    def call_with(nvidia_smi: str) -> str:
        write_program(tmp_path / "bin" / "nvidia-smi", nvidia_smi)
        done = call(installed / "scripts" / "harness", PATH=path)
        assert done.returncode == 0, done.stderr
        return done.stderr

    (installed / ".venv" / "harness-stamps" / "base").unlink()
    assert "nvidia-smi is installed but does not answer" in call_with("exit 9")
    assert call_with("exit 9") == ""  # as long as it does not, nothing is installed again
    assert call(python, "-c", "import fast").returncode == 1
    assert "cuda: unpacking 1 packages" in call_with("exit 0")
    assert call(python, "-c", "import fast").returncode == 0
    assert call_with("exit 9") == ""  # CUDA stays


def test_environment_of_someone_else_is_refused(template: Path, tmp_path: Path) -> None:
    root = shutil.copytree(template, tmp_path / "project")
    (root / ".venv").mkdir()
    (root / ".venv" / "precious").touch()
    refused = call(root / "scripts" / "harness")
    assert refused.returncode == 1
    assert f"{root}/.venv exists but was not made by these scripts" in refused.stderr
    assert [path.name for path in (root / ".venv").iterdir()] == ["precious"]
    stamp = tmp_path / "other" / "harness-stamps" / "venv"
    stamp.parent.mkdir(parents=True)
    stamp.write_text("/another/project")
    shutil.rmtree(root / ".venv")
    (root / ".venv").symlink_to(tmp_path / "other")
    refused = call(root / "scripts" / "harness")
    assert refused.returncode == 1
    assert "link to the environment of /another/project" in refused.stderr
    assert stamp.exists()


def test_without_a_fit_python_the_remedy_is_named(template: Path, tmp_path: Path) -> None:
    root = shutil.copytree(template, tmp_path / "project")
    path = folder_of_programs(
        tmp_path / "bin", "bash", "dirname", "readlink", "mkdir", "flock", "ls"
    )
    write_program(path / "python3", "exit 1")  # as one of another version, or without venv
    failed = call(root / "scripts" / "harness", PATH=str(path))
    assert failed.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 with the venv module" in failed.stderr
    assert "apt-get install python3-venv" in failed.stderr
