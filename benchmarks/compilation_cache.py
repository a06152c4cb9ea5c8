"""What the cache of XLA's programs saves a run.

    .venv/bin/python -m benchmarks.compilation_cache --runs 7

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
from kernels.multi_hot.native.build import CACHE_VARIABLE

_KINDS = ("without", "empty", "filled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="as for `harness train`")
    parser.add_argument("--runs", type=int, default=7, help="of each kind")
    arguments = parser.parse_args()
    summaries: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    with tempfile.TemporaryDirectory() as cache:
        environment = {CACHE_VARIABLE: cache}
        summary_of_run(arguments.data, environment=environment)  # compiles the kernels
        for _ in range(arguments.runs):
            for kind in _KINDS:
                if kind == "empty":
                    for folder in Path(cache).glob("xla-*"):
                        shutil.rmtree(folder)
                flags = ["--compilation-cache", "off"] if kind == "without" else []
                summary = summary_of_run(arguments.data, *flags, environment=environment)
                assert (summary["cached_programs"] > 0) == (kind == "filled"), summary
                summaries[kind].append(summary)
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
