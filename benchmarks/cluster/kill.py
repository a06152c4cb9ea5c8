"""Kills one of two workers, again and again, to see whether and how soon the job ends or restarts.

    python -m benchmarks.cluster.kill [TIMES]

Odd rounds: `harness launch` without restarts must end with an exit code other than 0. Even rounds:
with --restarts 1 it must end with 0, and with the test loss of the run that nobody killed. Both
must end, or in a restart begin again, within 60 s of the kill. The killed worker is at times the
chief, at times the other.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

MOST_SECONDS = 60
_EPOCHS = 30
_TRAIN = (
    *("train", "--data", "synthetic", "--synthetic-rows", "6000", "--epochs", str(_EPOCHS)),
    *("--precision", "float32", "--implementation", "gather", "--tensorboard", "off"),
)


def command(folder: Path, *, restarts: int) -> list[str]:
    """Returns the command that starts two workers, which train into a folder."""
    start = ["launch", "--workers", "2", "--restarts", str(restarts), "--"]
    return [sys.executable, "-m", "harness", *start, *_TRAIN, "--run-dir", str(folder)]


def test_loss(folder: Path) -> float:
    """Returns the test loss of a run that has ended."""
    return float(json.loads((folder / "summary.json").read_text())["test_loss"])


def workers_of(launcher: int) -> list[int]:
    """Returns the ids of the processes that the launcher started, the chief first."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True, check=False
    )
    return sorted(map(int, listed.stdout.split()))


def one_round(folder: Path, *, victim: int, restarts: int) -> tuple[float, int, str]:
    """Kills a worker; returns the seconds from the kill to the end, or to the start of new workers,
    the exit code, and the output."""
    with (folder.parent / f"{folder.name}.log").open("w+") as log:
        job = subprocess.Popen(command(folder, restarts=restarts), stdout=log, stderr=log)
        while not list((folder / "checkpoints").glob("*.npz")):
            time.sleep(0.1)
            if job.poll() is not None:
                raise RuntimeError(f"ended before the kill: {Path(log.name).read_text()[-2000:]}")
        time.sleep(random.uniform(0, 1.0))
        before = workers_of(job.pid)
        os.kill(before[victim], signal.SIGKILL)
        start = time.monotonic()
        while job.poll() is None and not set(workers_of(job.pid)) - set(before):
            time.sleep(0.1)
            if time.monotonic() - start > 5 * MOST_SECONDS:
                job.kill()
                return 5.0 * MOST_SECONDS, -1, "it hung"
        seconds = time.monotonic() - start
        code = job.wait(timeout=10 * MOST_SECONDS)
        log.seek(0)
        return seconds, code, log.read()


def main(arguments: Sequence[str]) -> int:
    """Runs the rounds."""
    times = int(arguments[0]) if arguments else 10
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        done = subprocess.run(
            command(whole, restarts=0), check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stdout}{done.stderr}")
        print(f"nobody killed: test loss {test_loss(whole)}", flush=True)
        for number in range(times):
            folder, restarts, victim = Path(name) / str(number), number % 2, number // 2 % 2
            seconds, code, text = one_round(folder, victim=victim, restarts=restarts)
            said = re.findall(r"^(?:\[\d\] )?(?:error: .*|worker \d ended.*)$", text, re.MULTILINE)
            good = seconds < MOST_SECONDS and bool(said)
            shown = ""
            if restarts:
                good = good and code == 0 and test_loss(folder) == test_loss(whole)
                shown = f", test loss {test_loss(folder)}" if code == 0 else ""
            else:
                good = good and code not in (0, 2)
            failed += not good
            how = "started again" if restarts else "ended"
            print(
                f"{number}: worker {victim} killed, {how} after {seconds:.1f} s, exit code {code}"
                f"{shown}: {'good' if good else 'FAILED'}; "
                f"{said[-1][:100] if said else text[-500:]}",
                flush=True,
            )
            if not good:
                print(text[-3000:], flush=True)
    print(f"{times - failed} of {times} good")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
