"""The contents of the wheel: the two packages with their data files, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def test_wheel_ships_harness_and_kernels_alone(tmp_path: Path) -> None:
    # From a copy: setuptools builds in place and would leave build/ behind.
    source = tmp_path / "source"
    shutil.copytree(
        PROJECT_ROOT,
        source,
        ignore=shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "runs", "__pycache__"),
    )
    # With this environment's setuptools: no package index is asked, nor waited for.
    command = [sys.executable, "-m", "pip", "--no-input", "wheel", "--no-deps"]
    built = subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", tmp_path, source],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert built.returncode == 0, built.stderr

    (wheel,) = tmp_path.glob("*.whl")
    paths = [PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()]
    top_levels = {path.parts[0] for path in paths if not path.parts[0].endswith(".dist-info")}
    assert top_levels == {"harness", "kernels"}
    shipped = {str(path) for path in paths}
    sources = {
        path.relative_to(source).as_posix()
        for package in ("harness", "kernels")
        for pattern in ("*.py", "py.typed", "*.cc", "*.h", "*.html")
        for path in (source / package).rglob(pattern)
    }
    assert sources <= shipped, sources - shipped
