"""The cache folder is the user's alone, and so is every file that is opened in it."""

import os
from pathlib import Path

import pytest

from kernels import cache

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
ANOTHER_USER = 65534


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this test alone; not made yet."""
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_is_made_for_the_user_alone(folder: Path) -> None:
    old = os.umask(0)
    try:
        opened, inner = cache.opened(), cache.opened("data")
        cache.write(opened / "file", b"content")
    finally:
        os.umask(old)
    assert (opened, inner) == (folder, folder / "data")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())}
    assert modes == {"cache": 0o700, "data": 0o700, "file": 0o600}


@pytest.mark.parametrize(("subfolder", "mode"), [("", 0o770), ("", 0o702), ("data", 0o750)])
def test_a_folder_that_is_open_to_others_is_refused(
    folder: Path, subfolder: str, mode: int
) -> None:
    """Another user could put a library there for us to load. `data` holds folders that the umask
    may have made writable by a group, so it must be closed."""
    (folder / subfolder).mkdir(mode=0o755, parents=True)
    (folder / subfolder).chmod(mode)
    match = rf"{folder / subfolder} is open to other users \(mode {mode:o}; chmod go= "
    with pytest.raises(PermissionError, match=match):
        cache.opened(subfolder)
    (folder / subfolder).chmod(0o700)
    cache.opened(subfolder)


@needs_root
def test_what_belongs_to_another_user_is_refused(folder: Path) -> None:
    opened = cache.opened()
    cache.write(opened / "file", b"")
    os.chown(folder / "file", ANOTHER_USER, -1)
    match = f"{folder}/file belongs to user {ANOTHER_USER}, and this is user 0"
    with pytest.raises(PermissionError, match=match):
        cache.open_file(opened / "file")
    os.chown(folder, ANOTHER_USER, -1)
    with pytest.raises(PermissionError, match=f"{folder} belongs to"):
        cache.opened()


def test_a_file_that_others_may_write_to_is_refused(folder: Path) -> None:
    opened = cache.opened()
    cache.write(opened / "file", b"")
    (folder / "file").chmod(0o660)
    with pytest.raises(PermissionError, match=f"{folder}/file is open to other users"):
        cache.open_file(opened / "file")


@pytest.mark.parametrize(
    ("kind", "fact"),
    [("link", "a symbolic link"), ("pipe", "not a regular file"), ("folder", "not a regular file")],
)
def test_only_files_are_opened_and_writing_replaces_the_rest(
    folder: Path, tmp_path: Path, kind: str, fact: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    opened = cache.opened()
    match kind:
        case "link":
            (folder / "file").symlink_to(elsewhere)
        case "pipe":  # opening it would wait for a writer
            os.mkfifo(folder / "file")
        case "folder":
            (folder / "file").mkdir()
    with pytest.raises(PermissionError, match=f"{folder}/file is {fact}"):
        cache.open_file(opened / "file")
    if kind == "folder":
        with pytest.raises(IsADirectoryError, match=str(folder)):
            cache.write(opened / "file", b"content")
        return
    cache.write(opened / "file", b"content")
    with open(cache.open_file(opened / "file"), "rb") as file:
        assert file.read() == b"content"
    assert elsewhere.read_text() == "untouched"


def test_what_a_killed_process_left_a_day_ago_is_removed(folder: Path) -> None:
    cache.opened()
    left = folder / ".partial-1"
    left.mkdir()
    cache.opened()
    assert left.exists()
    day = 24 * 3600
    os.utime(left, (0, left.stat().st_mtime - day))
    cache.opened()
    assert [*folder.iterdir()] == []
