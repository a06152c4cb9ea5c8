"""Our run against the tutorial's, as whole processes: wall time, memory, accuracy.

    .venv/bin/python -m benchmarks.against_tutorial --data imdb.npz --pairs 5 --out FILE.json

Pairs run as A B, B A, A B, ... so that a machine that drifts favours neither. Ratios are formed
within a pair; printed are their median and range over pairs. Both train the tutorial's network for
two epochs at batch 500 in float32 and evaluate it on the same 10,000 held-out reviews after each.
The wall time is that of the whole process, measured from outside.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.runs import summary_of_run
from harness.files import write_json
from harness.observe import host

_TUTORIAL = Path(__file__).parent / "peers" / "tutorial.py"
_FIGURES = ("wall_seconds", "peak_rss_bytes", "examples_per_second", "test_accuracy")


def run_tutorial(data: Path, seed: int) -> dict[str, Any]:
    """The figures of one process of the tutorial."""
    command = [sys.executable, str(_TUTORIAL), "--data", str(data), "--seed", str(seed)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout.splitlines()[-1])


def run_ours(data: Path, seed: int) -> dict[str, Any]:
    """The summary of one process of ours."""
    return summary_of_run(str(data), "--precision", "float32", "--seed", str(seed))


def timed(run: Callable[[Path, int], dict[str, Any]], data: Path, seed: int) -> dict[str, Any]:
    """The figures of a process, with its wall time as seen from outside."""
    start = time.perf_counter()
    figures = run(data, seed)
    return {**figures, "wall_seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="imdb.npz in Keras's format")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()

    # Else the first process in a fresh environment would read TensorFlow from the disk for both.
    subprocess.run(
        [sys.executable, "-c", "import tensorflow"], check=True, stderr=subprocess.DEVNULL
    )
    pairs = []
    for seed in range(arguments.pairs):
        runs = {"ours": run_ours, "tutorial": run_tutorial}
        order = ["ours", "tutorial"] if seed % 2 == 0 else ["tutorial", "ours"]
        pairs.append({name: timed(runs[name], arguments.data, seed) for name in order})
        print(
            f"pair {seed}: "
            + ", ".join(f"{name} {pairs[-1][name]['wall_seconds']:.1f} s" for name in order),
            file=sys.stderr,
        )
    rows = {}
    for figure in _FIGURES:
        ours, theirs = ([pair[name][figure] for pair in pairs] for name in ("ours", "tutorial"))
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        rows[figure] = {
            "ours": statistics.median(ours),
            "tutorial": statistics.median(theirs),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
        }
        print(
            f"{figure:20} ours {rows[figure]['ours']:<16,.4g} tutorial "
            f"{rows[figure]['tutorial']:<16,.4g} ratio {rows[figure]['ratio']:.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )
    if arguments.out:
        content = {"host": host.host(), "versions": host.versions(), "figures": rows}
        write_json(arguments.out, {**content, "pairs": pairs})


if __name__ == "__main__":
    main()
