"""Faults in the calls of small programs: which calls count, and what a fault leaves."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.faults import injector
from benchmarks.faults.injector import Fault

PROJECT_ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, sys
from pathlib import Path
from benchmarks.faults.injector import Fault, arm
folder, log, action, at = sys.argv[1:]
os.chdir(folder)
arm(Path(folder), Path(log), Fault(action=action, at=int(at)))
"""
STDIO = """
import ctypes
c = ctypes.CDLL(None)
c.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(c.fopen(b"{path}", b"w"))
assert c.fwrite(b"12345678", 1, 8, file) == 8
assert c.fflush(file) == 0
assert c.fclose(file) == 0
"""
WRITE = "file = open('a', 'wb', 0)\nassert file.write(b'12345678') == 8\n"


@dataclass(frozen=True, kw_only=True)
class Done:
    """The result of a program."""

    code: int
    err: str
    made: list[str]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("needs g++, to build the library that makes faults")
    return injector.build(tmp_path_factory.mktemp("library"))


def run(library: Path, place: Path, program: str, fault: Fault) -> Done:
    """Runs Python code with a fault; `place`/folder is its working folder, and the one that
    counts."""
    folder, log = place / "folder", place / "log"
    folder.mkdir(exist_ok=True)
    arguments = [str(folder), str(log), fault.action, str(fault.at)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, *arguments],
        cwd=PROJECT_ROOT,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)} | injector.loading(library),
        capture_output=True,
        text=True,
        check=False,
    )
    made = [str(call) for call in injector.calls(log)]
    return Done(code=done.returncode, err=done.stderr, made=made)


@pytest.mark.parametrize(
    ("program", "made"),
    [
        (WRITE, ["create a", "write a"]),
        ("open('a', 'w').close(); os.replace('a', 'c')", ["create a", "rename c"]),
        # harness/base/files.py writes in this way.
        (
            "os.mkdir('p', 0o700); p = os.open('p', os.O_RDONLY); top = os.open('.', os.O_RDONLY)\n"
            "open(f'/proc/self/fd/{p}/new', 'w').close()\n"
            "os.rename('new', 'a', src_dir_fd=p, dst_dir_fd=top); os.rmdir('p', dir_fd=top)\n"
            "os.unlink('a', dir_fd=top)",
            ["mkdir p", "create p/new", "rename a", "rmdir p", "unlink a"],
        ),
        # TensorFlow writes event files in this way.
        (STDIO.format(path="a"), ["create a", "fwrite a", "fflush a", "fclose a"]),
        # Calls of other processes, and files elsewhere.
        ("os.mkdir('../b'); open('../b/a', 'w').write('1'); os.listdir('.'); print(1)", []),
    ],
)
def test_what_counts(library: Path, tmp_path: Path, program: str, made: list[str]) -> None:
    done = run(library, tmp_path, program, Fault(action="count"))
    assert (done.code, done.err, done.made) == (0, "", made)
