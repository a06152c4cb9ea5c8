"""What the build promises: its key, its cache, two builders at once, and clear refusals."""

import ctypes
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tensorflow as tf

from kernels.multi_hot.native import build as building
from kernels.multi_hot.native.build import NativeUnavailableError

needs_compiler = pytest.mark.skipif(building.find_compiler() is None, reason="needs a C++ compiler")
ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(building.CACHE_VARIABLE, str(folder))
    return folder


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        timeout=120,
    )


def test_import_compiles_and_loads_nothing(cache: Path) -> None:
    code = "import kernels.multi_hot.api; print('multi_hot-' in open('/proc/self/maps').read())"
    done = run_python(code)
    assert done.stdout == "False\n", done.stderr
    assert not cache.exists()


@needs_compiler
def test_two_build_at_once(cache: Path) -> None:
    """Both get a library that can be loaded, and one library is left."""
    include = Path(tf.sysconfig.get_include())
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(building.build, [include, include])
    assert first == second
    assert [*cache.iterdir()] == [first]
    assert ctypes.CDLL(str(first)).multi_hot_register is not None


@needs_compiler
def test_key_follows_what_the_library_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = building.require_compiler()
    key = building.key(compiler, tmp_path)
    assert building.key(compiler, tmp_path) == key
    headers = tmp_path / "other" / "xla" / "ffi" / "api"
    headers.mkdir(parents=True)
    (headers / "c_api.h").write_text("// another version of XLA's interface\n")
    others = {building.key([*compiler, "-g"], tmp_path), building.key(compiler, tmp_path / "other")}
    monkeypatch.setenv("CXX", compiler[0])
    assert building.key(building.require_compiler(), tmp_path) == key
    assert len(others | {key}) == 3


def test_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NativeUnavailableError, match=r"install one .*or use .*'gather'"):
        building.build(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(NativeUnavailableError, match="none of no-such-compiler can be run"):
        building.build(tmp_path)
    assert not cache.exists()


@needs_compiler
def test_failed_compilation_shows_why_and_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(NativeUnavailableError, match=r"ffi\.h") as caught:
        building.build(tmp_path)  # no TensorFlow's headers in there
    assert "CXX" in str(caught.value)
    assert list(cache.iterdir()) == []


def test_what_killed_builds_left_is_removed(cache: Path, tmp_path: Path) -> None:
    cache.mkdir(mode=0o700)
    names = ("multi_hot-0-old.tmp", "multi_hot-0-new.tmp", "choice-old.json")
    old, new, other = files = [cache / name for name in names]
    for file in files:
        file.touch()
    for file in (old, other):
        os.utime(file, (0, time.time() - 400))
    with pytest.raises(NativeUnavailableError):
        building.build(tmp_path)  # no TensorFlow's headers in there
    assert {*cache.iterdir()} == {new, other}


def test_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the folder should be: refused whoever runs the test, root included."""
    home = tmp_path / "home"
    home.write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.delenv(building.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert building.cache_folder().parent == temporary
    monkeypatch.setenv(building.CACHE_VARIABLE, str(home / "cache"))
    with pytest.raises(NativeUnavailableError, match=f"writable one in {building.CACHE_VARIABLE}"):
        building.cache_folder()


def test_folder_that_others_can_write_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user could put a library there for this one to load."""
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(NativeUnavailableError, match="writable by everybody"):
        building.cache_folder()
