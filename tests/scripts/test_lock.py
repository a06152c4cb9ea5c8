"""requirements/*.txt against pyproject.toml: `./scripts/lock` compiles one from the other."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED_EXTRAS = sorted(PROJECT["optional-dependencies"].keys() - {"peers"})


def locked(name: str) -> dict[str, str]:
    """The packages of a lock file and their versions."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["base", *LOCKED_EXTRAS])
def test_every_requirement_is_locked(name: str) -> None:
    versions = locked("base") | locked(name)
    wanted = PROJECT["dependencies"] if name == "base" else PROJECT["optional-dependencies"][name]
    for requirement in map(Requirement, wanted):
        version = versions.get(requirement.name)
        assert version is not None, f"{requirement} is not in the lock: run ./scripts/lock"
        assert requirement.specifier.contains(version), f"{requirement}: run ./scripts/lock"


def test_extras_add_to_the_base_and_agree_on_versions() -> None:
    base, all_versions = locked("base"), {}
    for name in LOCKED_EXTRAS:
        for package, version in locked(name).items():
            assert package not in base
            assert all_versions.setdefault(package, version) == version


def test_no_package_index_is_named() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert "://" not in path.read_text(), path
        assert "index" not in path.read_text().splitlines()[1], path
