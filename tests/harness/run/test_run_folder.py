"""A run folder is one run's alone: it is claimed before anything is written, until the run ends."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.base.errors import InputError, LostFolderError
from harness.run.run_folder import claim
from tests.harness.cli.runs import REPOSITORY, SMALL, call, contents

# Claims a new folder, says which, and holds it until its standard input is closed.
CLAIMING = """
import sys
from contextlib import ExitStack
from harness.run.run_folder import claim_run_folder
with ExitStack() as claims:
    named = sys.argv[1] if sys.argv[1:] else "auto"
    folder = claim_run_folder(named, claims, resume=False, overwrite=False)
    print(folder.path, flush=True)
    sys.stdin.read()
"""


def claiming(place: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLAIMING, *arguments],
        cwd=place,
        env={"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def claimed_by(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().rstrip("\n"))


def test_runs_that_start_at_once_get_a_folder_each(tmp_path: Path) -> None:
    processes = [claiming(tmp_path) for _ in range(4)]
    folders = {claimed_by(process) for process in processes}
    assert len(folders) == 4
    assert {folder.parent for folder in folders} == {tmp_path / "runs"}
    for process in processes:
        process.communicate("")
        assert process.returncode == 0
    assert not any(folder.exists() for folder in folders), "nothing was written to them"


def test_a_second_run_is_refused_and_leaves_everything_as_it_is(tmp_path: Path) -> None:
    folder, board = tmp_path / "run", tmp_path / "board"
    with ExitStack() as claims:
        for place in (folder, board):
            claim(place, claims, what="folder")
        before = contents(tmp_path)
        for flags in ((), ("--overwrite",), ("--resume",)):
            refused = call("train", *SMALL, "--run-dir", folder, *flags)
            assert (refused.code, refused.out, refused.err) == (
                2,
                "",
                f"error: run folder {folder} is in use by another run; wait until that has ended, "
                "or name another\n",
            )
        refused = call("train", *SMALL, "--run-dir", tmp_path / "other", "--tensorboard", board)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.startswith(f"error: TensorBoard folder {board} is in use by another run")
        assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == []


# Installs a filter of system calls, by which the kernel refuses flock as a file system without
# locks does, with the error 37 (ENOLCK).
WITHOUT_LOCKS = """
import ctypes, struct
def step(code, yes, no, k):
    return struct.pack("HBBI", code, yes, no, k)
load, equal, end, allow = 0x20, 0x15, 0x06, 0x7FFF0000
steps = step(load, 0, 0, 0) + step(equal, 0, 1, 73)
steps += step(end, 0, 0, 0x50025) + step(end, 0, 0, allow)
kept = ctypes.create_string_buffer(steps)
program = struct.pack("HxxxxxxP", 4, ctypes.addressof(kept))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter has x86-64's numbers")
def test_a_folder_that_cannot_be_locked_is_left_as_it_was(tmp_path: Path) -> None:
    lock = tmp_path / "other" / ".harness-lock"
    lock.parent.mkdir()
    lock.touch()
    for folder in (tmp_path / "new" / "run", lock.parent):
        command = [sys.executable, "-c", WITHOUT_LOCKS + CLAIMING, str(folder)]
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=False, input=""
        )
        assert f"InputError: run folder {folder} cannot be written to (No locks" in done.stderr
    assert contents(tmp_path) == {"other": None, "other/.harness-lock": b""}


def test_a_folder_that_was_moved_or_replaced_is_noticed(tmp_path: Path) -> None:
    with ExitStack() as claims:
        claimed = claim(tmp_path / "run", claims, what="run folder")
        claimed.check()
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        with pytest.raises(LostFolderError, match="was moved or removed"):
            claimed.check()
        (tmp_path / "run").mkdir()
        with pytest.raises(LostFolderError, match="was moved or removed"):
            claimed.check()
    assert list((tmp_path / "elsewhere").iterdir()) == [], "the lock went along, and is removed"


def test_a_link_in_place_of_the_lock_is_left(tmp_path: Path) -> None:
    lock = tmp_path / "run" / ".harness-lock"
    with ExitStack() as claims:
        claim(tmp_path / "run", claims, what="run folder")
        lock.rename(tmp_path / "mine")
        lock.symlink_to(tmp_path / "mine")
    assert lock.is_symlink()


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_a_lock_that_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    lock = tmp_path / ".harness-lock"
    (tmp_path / "mine").write_text("mine")
    if kind == "fifo":
        os.mkfifo(lock)
    elif kind == "link":
        lock.symlink_to(tmp_path / "mine")
    else:
        lock.mkdir()
    with ExitStack() as claims, pytest.raises(InputError, match="cannot be written to"):
        claim(tmp_path, claims, what="run folder")
    assert (tmp_path / "mine").read_text() == "mine"
