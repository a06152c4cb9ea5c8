"""Whether `summary.json` tells the truth: its examples/s against a clock outside the process.

    .venv/bin/python -m benchmarks.outside_clock --runs 5

This process starts `harness train`, watches metrics.jsonl grow and notes when each window's line
arrives. From the first line of an epoch to its last there is nothing but training, so the examples
of the lines in between, over that time, are the throughput as seen from outside.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.0005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000, help="so that an epoch takes long")
    parser.add_argument("--batch-size", type=int, default=500)
    arguments = parser.parse_args()
    medians, means = [], []
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as temporary:
            outside, inside = run(Path(temporary) / "run", arguments.rows, arguments.batch_size)
        summary, lines = inside
        medians.append(summary / outside)
        means.append(lines / outside)
        print(
            f"outside {outside:,.0f} examples/s; summary.json {summary:,.0f} "
            f"({medians[-1] - 1:+.2%}); its windows together {lines:,.0f} ({means[-1] - 1:+.2%})",
            flush=True,
        )
    print(
        f"over {arguments.runs} runs, median: summary.json {statistics.median(medians) - 1:+.2%}, "
        f"its windows together {statistics.median(means) - 1:+.2%}"
    )


def run(folder: Path, rows: int, batch_size: int) -> tuple[float, tuple[float, float]]:
    """Examples/s of one run: from outside; from summary.json and from the windows' own times."""
    command = [sys.executable, "-m", "harness", "train", "--synthetic-rows", str(rows)]
    command += ["--epochs", "1", "--batch-size", str(batch_size), "--run-dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    arrivals = watch(folder / "metrics.jsonl", process)
    if process.wait() != 0:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}")
    windows = [(when, line) for when, line in arrivals if "num_steps" in line]
    seconds = windows[-1][0] - windows[0][0]
    between = [line for _, line in windows[1:]]
    examples = sum(line["examples"] for line in between)
    summary = json.loads((folder / "summary.json").read_text())
    own_seconds = sum(line["seconds"] for line in between)
    return examples / seconds, (summary["examples_per_second"], examples / own_seconds)


def watch(path: Path, process: subprocess.Popen) -> list[tuple[float, dict[str, Any]]]:
    """Each line of a growing file, with the time at which it was there."""
    arrivals: list[tuple[float, dict[str, Any]]] = []
    while not path.exists() and process.poll() is None:
        time.sleep(_POLL_SECONDS)
    with path.open() as file:
        while True:
            ended = process.poll() is not None
            while line := file.readline():
                arrivals.append((time.perf_counter(), json.loads(line)))
            if ended:
                return arrivals
            time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    main()
