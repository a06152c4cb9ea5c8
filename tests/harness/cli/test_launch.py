"""`harness launch`: wrong input is reported before anything starts, and a run is replaced."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.cli.runs import SMALL, call, command_line, environment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "launch starts train alone; give its options behind --"),
        (("--", "evaluate", "model.keras"), "launch starts train alone"),
        (("--workers", "0", "--", "train"), "--workers is 0"),
        (("--", "train", "--epochs", "0"), "--epochs is 0"),
        (("--", "train", "--no-such-flag"), "--no-such-flag"),
    ],
)
def test_wrong_use_starts_nothing(arguments: tuple[str, ...], message: str) -> None:
    result = call("launch", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


OWN_NETWORK = """
import socket
from harness.workers.launcher import enter_own_network
server = socket.create_server(("", 0))
enter_own_network()
print([name for _, name in socket.if_nameindex()])
with socket.create_server(("", 0)) as own:
    socket.create_connection(("localhost", own.getsockname()[1])).close()
try:
    socket.create_connection(("localhost", server.getsockname()[1]))
except ConnectionRefusedError:
    print("apart")
"""


def has_own_network() -> bool:
    """Whether the system allows the workers a network of their own."""
    done = subprocess.run([sys.executable, "-c", OWN_NETWORK], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(not has_own_network(), reason="the system allows no network namespace")
def test_the_workers_network_is_apart_from_the_machines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OWN_NETWORK], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["['lo']", "apart"]


# A filter of Linux (seccomp) by which the system refuses unshare(2) from now on.
REFUSED = """
import ctypes, platform, runpy, struct, sys
libc = ctypes.CDLL(None)
unshare = {"x86_64": 272, "aarch64": 97}[platform.machine()]
rules = (0x20, 0, 0, 0), (0x15, 0, 1, unshare), (6, 0, 0, 0x5_0001), (6, 0, 0, 0x7FFF_0000)
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
given = struct.pack("HP", len(rules), ctypes.addressof(program))
assert not libc.prctl(38, 1, 0, 0, 0)  # no new privileges
assert not libc.prctl(22, 2, given)
sys.argv[1:] = ["--workers=2", "--", "train"]
runpy.run_module("harness.cli.launch", run_name="__main__")
"""


def test_without_a_network_of_their_own_no_workers_start() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no network of its own for the workers (Operation not permitted)" in done.stderr


def test_a_process_of_one_thread_enters_the_network() -> None:
    """The system moves no other but for root."""
    text = "import os, harness.cli.launch; print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_two_workers_replace_a_run(trained_folder: Path, tmp_path: Path) -> None:
    """All of them compile before the chief clears the folder: a program's trial run sums over
    them."""
    shutil.copytree(trained_folder, tmp_path / "run")
    train = ("train", *SMALL, "--data", "synthetic", "--epochs", "1", "--run-dir", tmp_path / "run")
    allowed = () if has_own_network() else ("--open-ports",)
    launch = command_line("launch", "--workers", "2", *allowed, "--", *train, "--overwrite")
    done = subprocess.run(
        launch, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["workers"] == 2
