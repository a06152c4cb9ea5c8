"""Files that are whole or absent, on disks that run full in earnest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.files import own_file, remove_partial_files, replacing

# A real limit of the kernel's in a process of its own: a write past it fails as on a full disk.
LIMITED = """
import resource, sys
from pathlib import Path
from kernels.files import replacing
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    with replacing(Path(sys.argv[1])) as beside:
        beside.write_bytes(bytes(5000))
except OSError as error:
    print(error)
else:
    sys.exit("nothing failed")
"""


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content in ("a", "b"):
        with replacing(path) as beside:
            beside.write_text(content)
        assert path.read_text() == content
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_file_is_new_and_as_readable_as_any_other(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as beside, replacing(tmp_path / "a.txt") as other:
        assert beside != other
        beside.touch()
        other.touch()
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "a.txt").stat().st_mode == plain.stat().st_mode


KILLED = """
import os, sys
from pathlib import Path
from kernels.files import replacing
with replacing(Path(sys.argv[1])) as beside:
    beside.write_text("half")
    os.abort()
"""


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("events.out.tfevents.1.host.2.v2", "a.json"):
        command = [sys.executable, "-c", KILLED, str(tmp_path / name)]
        assert subprocess.run(command, check=False).returncode < 0
    left = [*tmp_path.rglob("*")]
    assert len(left) == 4
    assert not [path for path in left if "tfevents" in path.name], "TensorBoard would read it"
    (tmp_path / ".mine.json").touch()
    remove_partial_files(tmp_path, older_than_seconds=3600)
    assert len([*tmp_path.rglob("*")]) == 5
    remove_partial_files(tmp_path)
    remove_partial_files(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == [".mine.json"]


def test_a_folder_becomes_the_new_one_as_a_whole(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as beside:
        beside.mkdir()
        (beside / "part").write_text("x")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "part").read_text() == "x"
    with pytest.raises(OSError, match="not empty"), replacing(tmp_path / "a") as beside:
        beside.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's link")
def test_the_link_of_another_user_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to("mine")
    with replacing(tmp_path / "link" / "a.txt") as beside:
        beside.touch()
    os.lchown(tmp_path / "link", 12345, 12345)
    with pytest.raises(PermissionError, match="another user"), replacing(tmp_path / "link" / "b"):
        pytest.fail("the link was followed")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["a.txt"]


def test_a_folder_that_is_moved_takes_the_file_along(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with replacing(tmp_path / "a" / "x.txt") as beside:
        (tmp_path / "a").rename(tmp_path / "b")
        beside.write_text("whole")
    assert (tmp_path / "b" / "x.txt").read_text() == "whole"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("before", [None, "old"])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "a.txt"
    if before is not None:
        path.write_text(before)
    with pytest.raises(RuntimeError), replacing(path) as beside:  # noqa: PT012 - written, then fails
        beside.write_text("half")
        raise RuntimeError
    left = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert left == ({} if before is None else {"a.txt": before})


@pytest.mark.parametrize("before", [None, '{"old": 1}'])
def test_a_full_disk_leaves_no_half_file_and_names_the_path(
    tmp_path: Path, before: str | None
) -> None:
    path = tmp_path / "a.json"
    if before is not None:
        path.write_text(before)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"[Errno 27] File too large: '{path}'\n"
    left = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert left == ({} if before is None else {"a.json": before})


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "folder"])
def test_a_file_that_grows_is_never_somebody_elses(tmp_path: Path, kind: str) -> None:
    mine, place = tmp_path / "mine", tmp_path / "metrics.jsonl"
    mine.write_text("mine")
    if kind == "link":
        place.symlink_to(mine)
    elif kind == "hard link":
        place.hardlink_to(mine)
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.mkdir()
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        own_file(place)
    assert mine.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_written_to(tmp_path: Path) -> None:
    place = tmp_path / "metrics.jsonl"
    place.touch(0o666)
    os.close(own_file(place))
    os.chown(place, 12345, 12345)
    with pytest.raises(PermissionError, match="not a plain file of this user's alone"):
        own_file(place)
