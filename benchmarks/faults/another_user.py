"""An attack by another user, who may write to a run's folder and keeps swapping its contents.

    python -m benchmarks.faults.another_user --attempts 1000

A member of the user's group replaces every file and folder that a run writes, even the one that is
being written, by links to the user's private files, by pipes, and by folders. Meanwhile the run's
own functions write there, again and again. A write may fail with one message. It must not change a
file outside of the folder, follow a link there, or wait.
"""

import argparse
import collections
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from harness.base.errors import InputError, LostFolderError
from harness.base.files import write_json
from harness.base.reading import read_json
from harness.run.run_folder import claim, clean_run_folder
from kernels.files import opened_folder, own_file, replacing

SLOWEST_SECONDS = 5.0
_ATTACK = """
import contextlib, itertools, os, sys
folder, precious = sys.argv[1:]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.chdir(folder)
names = ["config.json", "summary.json", "metrics.jsonl", "checkpoints", "checkpoints/ckpt-1.npz",
         ".harness-lock", ".partial-mine"]
kinds = itertools.cycle(["file", "folder", "pipe", "away", "hard", "own"])
print(flush=True)
for number in itertools.count():
    partial = [name for name in os.listdir() if name.startswith(".partial-")]
    for name, kind in zip([*names, *partial], kinds):
        away = f"away-{number % 20}-{name.replace('/', '-')}"
        for drop in (os.unlink, os.rmdir):
            with contextlib.suppress(OSError):
                drop(away)
        with contextlib.suppress(OSError):
            os.rename(name, away)
        if number % 2:
            continue
        with contextlib.suppress(OSError):
            if kind == "pipe":
                os.mkfifo(name)
            elif kind == "own":
                os.mkdir(name)
            elif kind == "hard":
                os.link(f"{precious}/file", name)
            elif kind != "away":
                os.symlink(precious + ("/file" if kind == "file" else ""), name)
"""


def attack(attempts: int) -> dict[str, dict[str, int]]:
    """Attacks the folder during writes; returns the number of attempts at each kind of write by
    their outcomes.

    Raises:
        AssertionError: when a file of the user's was changed, or a write took too long.
    """
    outcomes = {name: collections.Counter[str]() for name in WRITES}
    with tempfile.TemporaryDirectory() as home:
        shared, precious = Path(home, "run"), Path(home, "precious")
        os.chmod(home, 0o711)
        shared.mkdir()
        os.chmod(shared, 0o777)
        precious.mkdir(mode=0o711)
        for name in ("file", "config.json", "ckpt-1.npz", "new", "new.json", ".harness-lock"):
            (precious / name).write_text("precious")
        before = _content(precious)
        command = [sys.executable, "-c", _ATTACK, str(shared), str(precious)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as attacker:
            try:
                assert attacker.stdout is not None
                attacker.stdout.readline()
                for _, (name, write) in itertools.product(range(attempts), WRITES.items()):
                    start = time.monotonic()
                    try:
                        write(shared)
                        outcomes[name]["written"] += 1
                    except (InputError, LostFolderError, OSError) as error:
                        outcomes[name][type(error).__name__] += 1
                    assert time.monotonic() - start < SLOWEST_SECONDS, f"{name} waited"
                    assert _content(precious) == before, f"{name} changed a file"
                assert attacker.poll() is None, "the attacker has given up"
            finally:
                attacker.kill()
    return {name: dict(counter) for name, counter in outcomes.items()}


def _claim(folder: Path) -> None:
    with ExitStack() as claims:
        claim(folder, claims, what="run folder").check()


def _append(folder: Path) -> None:
    descriptor = own_file(folder / "metrics.jsonl", os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"{}\n")
    os.ftruncate(descriptor, 0)
    os.close(descriptor)


def _checkpoint(folder: Path) -> None:
    (folder / "checkpoints").mkdir(exist_ok=True)
    with replacing(folder / "checkpoints" / "ckpt-1.npz") as beside:
        beside.write_bytes(b"weights")
    with opened_folder(folder / "checkpoints") as opened:
        os.unlink("ckpt-1.npz", dir_fd=opened)


def _read(folder: Path) -> None:
    read_json(folder / "config.json", remedy="")


WRITES: dict[str, Callable[[Path], None]] = {
    "claim and lock": _claim,
    "clear": lambda folder: clean_run_folder(folder, None, clear=True),
    "replace a file": lambda folder: write_json(folder / "config.json", {}),
    "append": _append,
    "checkpoint": _checkpoint,
    "read": _read,
}
"""The kinds of writes of a run in its folder."""


def _content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def main() -> int:
    """Runs the attack and prints its outcomes."""
    parser = argparse.ArgumentParser(description="Attacks a run's folder as another user.")
    parser.add_argument("--attempts", type=int, default=1000)
    attempts = parser.parse_args().attempts
    if os.geteuid() != 0:
        print("only root can become another user", file=sys.stderr)
        return 2
    for name, outcomes in attack(attempts).items():
        print(f"{name:<16}{json.dumps(outcomes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
