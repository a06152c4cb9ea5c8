"""The cache of XLA's programs: sound files alone, the latest alone, and off where it must be.

That TensorFlow uses it is shown with whole processes: tests/harness/commands.
"""

import os
import resource
import tempfile
from pathlib import Path
from typing import Any

import pytest

from harness.engine import compilation_cache
from harness.engine.compilation_cache import FOLDER_FLAG, VARIABLE, CompilationCache
from kernels.multi_hot.native.build import CACHE_VARIABLE

USERS = "--of=the user's"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where programs are kept, in the environment of this test alone."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv(VARIABLE, USERS)
    return tmp_path


def cache(settings: dict[str, Any] | None = None, **changes: Any) -> CompilationCache:
    return CompilationCache(
        settings or {"batch_size": 500}, **({"off": None, "is_first": True} | changes)
    )


def private() -> Path:
    """Where TensorFlow is told to look, and to write to."""
    flags = [flag for flag in os.environ[VARIABLE].split(" ") if flag.startswith(FOLDER_FLAG)]
    return Path(flags[-1].partition("=")[2])


def compiled(name: str, content: bytes, settings: dict[str, Any] | None = None) -> None:
    """A run with TensorFlow's part played: it writes one program."""
    os.environ[VARIABLE] = USERS
    run = cache(settings)
    (private() / name).write_bytes(content)
    run.keep()
    os.environ[VARIABLE] = USERS


def test_what_one_run_compiled_the_next_has(folder: Path) -> None:
    first = cache()
    assert (first.choice.name, first.num_programs) == ("on", 0)
    assert first.choice.why == "no programs of earlier runs with these settings"
    assert os.environ[VARIABLE].startswith("--tf_xla_persistent_cache_directory=/")
    ours = " --tf_xla_persistent_cache_device_types=CPU "
    assert os.environ[VARIABLE].endswith(f"{ours}{USERS}"), "TensorFlow stops at what is no flag"
    (private() / "a.pb").write_bytes(b"one")
    (private() / "b.pb").write_bytes(b"two")
    assert not list(folder.iterdir()), "nothing is kept before the end"
    first.keep()
    os.environ[VARIABLE] = USERS
    second = cache()
    assert (second.choice.name, second.num_programs) == ("on", 2)
    assert second.choice.why == "2 programs of earlier runs with these settings"
    assert {path.name: path.read_bytes() for path in private().iterdir()} == {
        "a.pb": b"one",
        "b.pb": b"two",
    }


def test_nothing_is_shared_with_other_settings_or_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled("a.pb", b"one")
    assert cache({"batch_size": 501}).num_programs == 0
    os.environ[VARIABLE] = USERS
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert cache().num_programs == 0
    os.environ[VARIABLE] = USERS
    monkeypatch.delenv("XLA_FLAGS")
    assert cache().num_programs == 1


@pytest.mark.parametrize("damaged", [b"", b"on", b"one more", b"ona"], ids=repr)
def test_a_damaged_program_is_removed_and_kept_anew(folder: Path, damaged: bytes) -> None:
    compiled("a.pb", b"one")
    compiled("b.pb", b"two")
    (kept,) = folder.glob("xla-*/*-a.pb")
    kept.write_bytes(damaged)
    run = cache()
    assert run.choice.why == "1 program of earlier runs with these settings; 1 damaged file removed"
    assert [path.name for path in private().iterdir()] == ["b.pb"]
    assert not kept.exists()
    (private() / "a.pb").write_bytes(b"one")
    run.keep()
    assert kept.read_bytes() == b"one"


def test_what_was_being_written_when_a_process_was_killed_is_no_program(folder: Path) -> None:
    compiled("a.pb", b"one")
    (kept,) = folder.glob("xla-*/*-a.pb")
    torn = kept.rename(kept.with_name(f".{kept.stem}.1234.pb"))
    run = cache()
    assert run.num_programs == 0
    run.keep()
    assert torn.exists(), "it may be written this moment"
    os.utime(torn, (0, 0))
    run.keep()
    assert not torn.exists()


def test_what_is_no_file_is_no_program(folder: Path) -> None:
    compiled("a.pb", b"one")
    (kept,) = folder.glob("xla-*")
    (kept / "dangling").symlink_to(kept / "nowhere")
    (kept / "folder").mkdir()
    os.mkfifo(kept / "fifo")
    assert cache().choice.why == "1 program of earlier runs with these settings"


def test_the_settings_used_last_are_kept(folder: Path) -> None:
    for number in range(8):
        compiled("a.pb", bytes(1000), {"batch_size": number})
        latest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        os.utime(latest, (number, number))
    by_age = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    again = cache({"batch_size": 0}, max_bytes=8000)
    again.keep()  # used, though nothing was compiled
    assert set(folder.iterdir()) == set(by_age)
    os.environ[VARIABLE] = USERS
    new = cache({"batch_size": 1000}, max_bytes=8000)
    (private() / "a.pb").write_bytes(b"one more")
    new.keep()
    left = set(folder.iterdir())
    assert len(left) == 8
    assert set(by_age) - left == {by_age[1]}


def test_the_latest_programs_are_kept(folder: Path) -> None:
    for number in range(compilation_cache._PROGRAMS_KEPT):
        compiled(f"{number}.pb", b"%d" % number)
        (kept,) = folder.glob(f"xla-*/*-{number}.pb")
        os.utime(kept, (number, number))
    compiled("new.pb", b"new")
    names = {path.name[65:] for path in folder.glob("xla-*/*")}
    assert len(names) == compilation_cache._PROGRAMS_KEPT
    assert "new.pb" in names
    assert "0.pb" not in names


def off(run: CompilationCache) -> str:
    """Why it is off; TensorFlow is told of no folder then, and nothing is kept."""
    assert (run.choice.name, run.num_programs) == ("off", 0)
    run.keep()
    return run.choice.why


def test_off_where_it_must_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled("a.pb", b"one")
    assert off(cache(off="asked for")) == "asked for"
    assert off(cache(is_first=False)) == "TensorFlow was used in this process before"
    assert FOLDER_FLAG not in os.environ[VARIABLE]
    (folder / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "file"))
    assert off(cache()) == "no folder for it can be written to; name one in MULTI_HOT_CACHE"
    assert FOLDER_FLAG not in os.environ[VARIABLE]
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    for flags, why in (
        (f"--other {FOLDER_FLAG}=/somewhere", "names one, which is TensorFlow's affair"),
        (" a/file/of/flags", "holds the name of a file"),
    ):
        monkeypatch.setenv(VARIABLE, flags)
        assert off(cache()) == f"TF_XLA_FLAGS {why}"
        assert os.environ[VARIABLE] == flags
    monkeypatch.setenv(VARIABLE, USERS)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=there")
    assert off(cache()) == "XLA_FLAGS asks for dumps, which only a compilation writes"


@pytest.mark.parametrize("space", [" ", "\t", "\n"])
def test_off_where_its_name_would_be_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: str
) -> None:
    spaced = tmp_path / f"with{space}space"
    spaced.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spaced))
    assert off(cache()) == f"TF_XLA_FLAGS cannot name {str(spaced)!r}"


def test_off_where_files_may_not_be_long() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, before[1]))
    try:
        assert off(cache()).startswith("there is room for 1,000,000 bytes in ")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_what_was_kept(folder: Path) -> None:
    compiled("a.pb", b"one")
    run = cache()
    (private() / "b.pb").write_bytes(bytes(10**6))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run.keep()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name[65:] for path in folder.glob("xla-*/*")] == ["a.pb"]
