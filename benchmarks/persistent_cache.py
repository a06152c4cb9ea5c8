"""What TensorFlow's persistent cache of compiled programs saves a run.

    .venv/bin/python -m benchmarks.persistent_cache --runs 5

Three kinds of `harness train` in turn, each run in a process of its own: without the cache, with an
empty one, and with one that the run before has filled.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

_KINDS = ("without", "empty", "filled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="as for `harness train`")
    parser.add_argument("--runs", type=int, default=5, help="of each kind")
    arguments = parser.parse_args()
    summaries: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(temporary) / "cache"
        for _ in range(arguments.runs):
            for kind in _KINDS:
                if kind == "empty":
                    shutil.rmtree(cache, ignore_errors=True)
                used = None if kind == "without" else cache
                summaries[kind].append(train(arguments.data, Path(temporary) / "run", used))
    losses = {summary["test_loss"] for runs in summaries.values() for summary in runs}
    print(f"test loss {', '.join(map(str, sorted(losses)))} in all {3 * arguments.runs} runs")
    for kind, runs in summaries.items():
        figures = [
            f"{what} {shown([run[key] / unit for run in runs])}"
            for what, key, unit in (
                ("compilation s", "compile_seconds", 1),
                ("whole process s", "wall_seconds", 1),
                ("peak memory GB", "peak_rss_bytes", 1e9),
            )
        ]
        print(f"{kind:8} {'; '.join(figures)}")


def train(data: str, folder: Path, cache: Path | None) -> dict[str, Any]:
    """Trains two epochs; returns the run's summary."""
    command = [sys.executable, "-m", "harness", "train", "--data", data, "--epochs", "2"]
    command += ["--run-dir", str(folder), "--overwrite"]
    environment = os.environ | {"TF_XLA_FLAGS": ""}
    if cache is not None:
        environment["TF_XLA_FLAGS"] = f"--tf_xla_persistent_cache_directory={cache}"
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def shown(values: list[float]) -> str:
    """Median, and the 20th to the 80th percentile."""
    low, median, high = np.percentile(values, (20, 50, 80))
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
