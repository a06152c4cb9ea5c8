"""What TensorFlow's persistent cache of compiled programs saves a run.

    .venv/bin/python -m benchmarks.persistent_cache --runs 7

Three kinds of `harness train` in turn, each run in a process of its own: without the cache, with an
empty one, and with one that the run before has filled.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import summary_of_run

_KINDS = ("without", "empty", "filled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="as for `harness train`")
    parser.add_argument("--runs", type=int, default=7, help="of each kind")
    arguments = parser.parse_args()
    summaries: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(arguments.runs):
            for kind in _KINDS:
                if kind == "empty":
                    shutil.rmtree(cache)
                    Path(cache).mkdir()
                flags = "" if kind == "without" else f"--tf_xla_persistent_cache_directory={cache}"
                environment = {"TF_XLA_FLAGS": flags}
                summaries[kind].append(summary_of_run(arguments.data, environment=environment))
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


def shown(values: list[float]) -> str:
    """Median, and the 20th to the 80th percentile."""
    low, median, high = np.percentile(values, (20, 50, 80))
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
