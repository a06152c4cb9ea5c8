"""Another user who keeps swapping the cache, in a folder that everybody may write to.

Every build either gets the user's own library or is refused; it never waits, and no file of the
user's is changed.
"""

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
NUM_BUILDS = 200
# Of the folder at argv[1]; its `precious` belongs to the user whom this attacks.
ATTACK = """
import hashlib, itertools, os, sys
os.chdir(sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
evil = b"evil"
for folder in ("evil", "open"):
    os.mkdir(folder)
    with open(f"{folder}/{sys.argv[2]}", "wb") as file:
        file.write(evil + hashlib.sha256(evil).digest())
os.chmod("evil", 0o700)
os.chmod("open", 0o777)
os.rename("cache", "own")
print(flush=True)
for target in itertools.cycle(["own", "evil", "pipe", "own", "open", "precious", "missing"]):
    if target == "pipe":
        os.mkfifo("next")
    else:
        os.symlink(target, "next")
    try:
        os.replace("next", "cache")
    except OSError:  # a folder that the user has just made
        os.rename("cache", f"made-{os.urandom(8).hex()}")
        os.rename("next", "cache")
"""
BUILDS = """
import sys
from pathlib import Path
from kernels.files import reached_by
from kernels.multi_hot.native.build import NativeUnavailableError, build
outcomes = []
for _ in range(int(sys.argv[1])):
    try:
        library = build(Path("/none"))
        outcomes.append(reached_by(library.descriptor).read_bytes()[:-32])
    except NativeUnavailableError:
        outcomes.append(b"refused")
print({outcome.decode(): outcomes.count(outcome) for outcome in outcomes})
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody may write to; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_swaps_the_cache_while_it_is_used(shared: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(
        """#!/bin/sh
for last; do :; done
[ "$last" = --version ] || printf 'a library' >"$last"
"""
    )
    compiler.chmod(0o755)
    precious = shared / "precious"
    precious.mkdir(mode=0o700)
    (precious / "file").write_text("precious")
    environment = {
        **os.environ,
        "CXX": str(compiler),
        "MULTI_HOT_CACHE": str(shared / "cache"),
    }

    def build(times: int) -> dict[str, int]:
        done = subprocess.run(
            [sys.executable, "-c", BUILDS, str(times)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=120,  # a hang
        )
        assert done.returncode == 0, done.stderr
        outcomes: dict[str, int] = ast.literal_eval(done.stdout)
        return outcomes

    assert build(1) == {"a library": 1}
    (library,) = (shared / "cache").glob("multi_hot-*")
    command = [sys.executable, "-c", ATTACK, str(shared), library.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as attacker:
        try:
            assert attacker.stdout is not None
            attacker.stdout.readline()
            outcomes = build(NUM_BUILDS)
            assert attacker.poll() is None
        finally:
            attacker.kill()
    assert set(outcomes) == {"a library", "refused"}
    assert (precious / "file").read_text() == "precious"
