"""Our run against the tutorial's, as whole processes: wall time, memory, accuracy.

    .venv/bin/python -m benchmarks.against_tutorial --data imdb.npz --rounds 5

In each round the tutorial runs once and ours twice: first with an empty cache, so that it compiles
the kernels, reads the file and measures to settle `auto` settings, and then with a full one. The
order rotates from round to round, so that a machine that drifts favours none. Ratios are formed
within a round; the program prints their median and range. All train the tutorial's network for two
epochs at batch 500 in float32, and evaluate it on the same 10,000 held-out reviews after each. The
wall time is that of the whole process, measured from outside. Each process begins some seconds
after the one before has ended: a virtual machine is busy for a while with the 9 GB that the
tutorial gives back, which made the next process up to half slower. Packages beyond the product's
own count too: Keras imports matplotlib and JAX if they are installed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.compare_peers import ratio
from harness.run import machine
from kernels.cache import CACHE_VARIABLE

_TUTORIAL = Path(__file__).parent / "peers" / "tutorial.py"
_FIGURES = ("wall_seconds", "peak_rss_bytes", "examples_per_second", "test_accuracy")
_FIRST = ("wall_seconds", "ours, first run")
_REST_SECONDS = 15
Run = Callable[[str, int], dict[str, Any]]  # a training of data with a seed; returns its figures


def run_ours(
    data: str, seed: int, *, precision: str = "float32", first: bool = False
) -> dict[str, Any]:
    """Trains two epochs at batch 500 in a process, with an empty cache if it is the `first`;
    returns `summary.json`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "harness", "train", "--data", data, "--epochs", "2"]
        command += ["--batch-size", "500", "--run-dir", f"{folder}/run"]
        command += ["--precision", precision, "--seed", str(seed)]
        own = {CACHE_VARIABLE: f"{folder}/cache"} if first else {}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | own)
        return json.loads(Path(folder, "run", "summary.json").read_text())


def run_tutorial(data: str, seed: int) -> dict[str, Any]:
    """Runs the tutorial in a process; returns its figures."""
    command = [sys.executable, str(_TUTORIAL), "--data", data, "--seed", str(seed)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout.splitlines()[-1])


def timed(run: Run, data: str, seed: int) -> dict[str, Any]:
    """Rests, then runs a process; returns its figures, with the wall time measured from outside."""
    time.sleep(_REST_SECONDS)
    start = time.perf_counter()
    figures = run(data, seed)
    return {**figures, "wall_seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="imdb.npz in Keras's format")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    # Without this, in a fresh environment only the first process would read TensorFlow from disk.
    subprocess.run(
        [sys.executable, "-c", "import tensorflow"], check=True, stderr=subprocess.DEVNULL
    )
    first = partial(run_ours, first=True)
    runs: dict[str, Run] = {"ours": run_ours, "ours, first run": first, "tutorial": run_tutorial}
    run_ours(arguments.data, 0)  # fills the cache
    rounds = []
    for seed in range(arguments.rounds):
        names = [*runs][seed % len(runs) :] + [*runs][: seed % len(runs)]
        rounds.append({name: timed(runs[name], arguments.data, seed) for name in names})
        print(
            f"round {seed}: "
            + ", ".join(f"{name} {rounds[-1][name]['wall_seconds']:.1f} s" for name in names),
            file=sys.stderr,
        )
    print("| whole process, two epochs | ours | the tutorial | ratio |\n| --- | --- | --- | --- |")
    for figure, whose in (*((figure, "ours") for figure in _FIGURES), _FIRST):
        ours, theirs = ([of[name] for of in rounds] for name in (whose, "tutorial"))
        median, *ends = ratio(ours, theirs, figure)
        medians = (statistics.median(of[figure] for of in side) for side in (ours, theirs))
        cells = " | ".join(f"{value:,.4g}" for value in medians)
        spread = f"{median:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"
        print(f"| {figure}, {whose} | {cells} | {spread} |")
    print(machine.host(), machine.versions())


if __name__ == "__main__":
    main()
