"""Whether `summary.json` tells the truth: its examples/s against a clock outside the process.

    .venv/bin/python -m benchmarks.outside_clock --runs 9

This process starts `harness train` and notes when each line of its output, and of metrics.jsonl,
is there. The training phase lasts from the last line about the start of the run to that of the last
window; in one epoch there is nothing else in between but the compilation, whose seconds, as
printed, are left out. All examples, over that time, are the throughput as seen from outside.

Judged is `mean_examples_per_second`: it must be within --tolerance in every run, or the exit code
is 1. `examples_per_second`, the median over windows, is shown beside it; it leaves slow windows
out, and so deviates wherever a machine is disturbed.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.files import write_json
from harness.telemetry import host

_POLL_SECONDS = 0.0005
_START = re.compile("run folder ")
_MOST_LINES_ABOUT_START = 20
_COMPILED = re.compile(r"compiled training step for .* in ([\d.]+) s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--rows", type=int, default=1_000_000, help="so that an epoch takes long")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--tolerance", type=float, default=0.03, help="as a share")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()
    runs = []
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as temporary:
            runs.append(run(Path(temporary) / "run", arguments.rows, arguments.batch_size))
        print(
            f"outside {runs[-1]['outside']:,.0f} examples/s; summary.json: "
            f"mean {runs[-1]['mean']:,.0f} ({_deviation(runs[-1], 'mean'):+.2%}), "
            f"median of windows {runs[-1]['median']:,.0f} ({_deviation(runs[-1], 'median'):+.2%})",
            flush=True,
        )
    for figure in ("mean", "median"):
        deviations = [_deviation(one, figure) for one in runs]
        print(
            f"{figure}: {statistics.median(deviations):+.2%} in the median of {len(runs)} runs "
            f"({min(deviations):+.2%} to {max(deviations):+.2%})"
        )
    if arguments.out:
        settings = {"rows": arguments.rows, "batch_size": arguments.batch_size}
        write_json(
            arguments.out,
            {**settings, "host": host.host(), "versions": host.versions(), "runs": runs},
        )
    if max(abs(_deviation(one, "mean")) for one in runs) > arguments.tolerance:
        sys.exit(f"mean_examples_per_second deviates by more than {arguments.tolerance:.1%}")


def run(folder: Path, rows: int, batch_size: int) -> dict[str, float]:
    """One training of one epoch: examples/s from `outside`; `mean` and `median` of summary.json."""
    command = [sys.executable, "-m", "harness", "train", "--synthetic-rows", str(rows)]
    command += ["--epochs", "1", "--batch-size", str(batch_size), "--run-dir", str(folder)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (
        ThreadPoolExecutor() as pool,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        printed = pool.submit(_printed, process.stdout)
        windows = _windows(folder / "metrics.jsonl", process)
        lines = printed.result()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}")
    (start,) = (when for when, line in lines[:_MOST_LINES_ABOUT_START] if _START.match(line))
    compiled = [float(found[1]) for _, line in lines if (found := _COMPILED.match(line))]
    seconds = windows[-1][0] - start - sum(compiled)
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "outside": sum(line["examples"] for _, line in windows) / seconds,
        "mean": summary["mean_examples_per_second"],
        "median": summary["examples_per_second"],
    }


def _printed(stream: Iterable[str]) -> list[tuple[float, str]]:
    """Each line, with the time at which it came."""
    return [(time.perf_counter(), line) for line in stream]


def _windows(path: Path, process: subprocess.Popen) -> list[tuple[float, dict[str, Any]]]:
    """Each window's line of a growing file, with the time at which it was there."""
    lines: list[tuple[float, dict[str, Any]]] = []
    while not path.exists() and process.poll() is None:
        time.sleep(_POLL_SECONDS)
    if not path.exists():
        return []
    with path.open() as file:
        line = ""
        while True:
            ended = process.poll() is not None
            while read := file.readline():
                line += read
                if line.endswith("\n"):
                    lines.append((time.perf_counter(), json.loads(line)))
                    line = ""
            if ended:
                return [(when, line) for when, line in lines if "num_steps" in line]
            time.sleep(_POLL_SECONDS)


def _deviation(one: dict[str, float], figure: str) -> float:
    return one[figure] / one["outside"] - 1


if __name__ == "__main__":
    main()
