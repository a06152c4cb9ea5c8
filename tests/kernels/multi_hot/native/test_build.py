"""The promises of the build: its key, its cache, two builders at once, and clear refusals."""

import ctypes
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernels.cache import CACHE_VARIABLE
from kernels.files import reached_by
from kernels.multi_hot.native import build as building
from kernels.multi_hot.registry import UnavailableError
from tests.kernels.multi_hot.checks import needs_compiler


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@needs_compiler
def test_two_build_at_once(cache: Path, tmp_path: Path) -> None:
    """Each process gets a library that can be loaded, and one library is left."""
    sources = tmp_path / "small"
    sources.mkdir()
    (sources / "binding.cc").write_text('extern "C" int multi_hot_register() { return 1; }\n')
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(building.build, [sources] * 2)
    assert first.path == second.path
    assert {*cache.iterdir()} == {first.path}
    for library in (first, second):
        loaded = ctypes.CDLL(str(reached_by(library.descriptor)))
        assert loaded.multi_hot_register is not None


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
    with pytest.raises(UnavailableError, match=r"install one .*or use .*'gather'"):
        building.build(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(UnavailableError, match="none of no-such-compiler -O1 can be run"):
        building.build(tmp_path)
    assert not cache.exists()


@needs_compiler
def test_failed_compilation_shows_why_and_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "binding.cc").write_text("#include <xla/ffi/api/none.h>\n")
    with pytest.raises(UnavailableError, match=r"none\.h") as caught:
        building.build(tmp_path)
    assert "CXX" in str(caught.value)
    assert [*cache.iterdir()] == []


@pytest.fixture
def quick_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the compiler. It logs its calls; what it writes is no library."""
    script = tmp_path / "compiler"
    script.write_text(
        f"""#!/bin/sh
for last; do :; done
[ "$last" = --version ] && exit
echo >>{tmp_path}/calls
printf 'a library' >"$last"
"""
    )
    script.chmod(0o700)
    monkeypatch.setenv("CXX", str(script))
    return tmp_path / "calls"


def test_compiling_writes_to_the_cache_folder_alone(
    cache: Path, quick_compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be no other folder to write to, as where a container's file system is read-only."""
    monkeypatch.setattr(tempfile, "tempdir", str(cache / "missing"))
    library = building.build()
    assert content_of(library) == b"a library"
    assert [*cache.iterdir()] == [library.path]


def content_of(library: building.Library) -> bytes:
    content = reached_by(library.descriptor).read_bytes()
    os.close(library.descriptor)
    return content[:-32]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 4
    path.write_bytes(content)


def open_to_the_group(path: Path) -> None:
    path.chmod(0o770)


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (flip_a_bit, "is damaged"),
        (open_to_the_group, "is open to other users"),
    ],
)
def test_what_is_damaged_or_not_ours_is_said_and_compiled_again(
    cache: Path,
    tmp_path: Path,
    quick_compiler: Path,
    damage: Callable[[Path], None],
    fact: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = building.build(tmp_path).path
    assert content_of(building.build(tmp_path)) == b"a library"
    assert quick_compiler.read_text().count("\n") == 1
    damage(path)
    assert content_of(building.build(tmp_path)) == b"a library"
    note = capfd.readouterr().err
    assert note.startswith(f"note: {path} {fact}")
    assert note.endswith("; the native kernels are compiled again\n")
    assert note.count("\n") == 1
    assert content_of(building.build(tmp_path)) == b"a library"
    assert quick_compiler.read_text().count("\n") == 2
    assert capfd.readouterr().err == ""


def test_built_meanwhile(
    cache: Path, quick_compiler: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for mode in (0o700, 0o770):
        cache.mkdir(exist_ok=True)
        cache.chmod(mode)
        with building.built_meanwhile():
            pass
    assert quick_compiler.read_text().count("\n") == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("obstacle", ["file", "open to the group"])
def test_a_folder_that_cannot_be_used(
    cache: Path, tmp_path: Path, quick_compiler: Path, obstacle: str
) -> None:
    if obstacle == "file":
        cache.touch()
    else:
        cache.mkdir()
        cache.chmod(0o770)
    match = rf"{cache}.*; correct that, name another folder in {CACHE_VARIABLE}, or use .*'gather'"
    with pytest.raises(UnavailableError, match=match):
        building.build(tmp_path)
    assert not quick_compiler.exists()
