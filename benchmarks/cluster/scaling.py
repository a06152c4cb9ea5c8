"""The cost of a step with 1, 2 and 4 workers on this machine, and the model that follows.

    python -m benchmarks.cluster.scaling

Prints two tables: the all-reduce alone, of vectors from 4 bytes to 16 MB; and training with 500
rows for each worker, with the time of a step, the time of a step without its all-reduce, and the
difference that the first table predicts. docs/scaling.md has the results.
"""

import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.workers.launcher import run_job

WORKERS = (2, 4)
SIZES = (1, 1_000, 50_000, 500_000, 4_000_000)
"""The numbers of float32 elements of the vectors."""
_ROWS = 500
"""The rows of each worker's share of a batch."""
_TIMES, _STEPS = 7, 10


def exchange(path: Path) -> None:
    """Measures, in a worker, the seconds of an all-reduce by its number of elements; the chief
    writes them."""
    import tensorflow as tf

    from harness.program.all_reduce import AllReduce
    from harness.workers.cluster import cluster_of

    cluster = cluster_of(os.environ)
    cluster.start(num_gpus=0)
    sums = AllReduce(("/CPU:0",), cluster, "ring")
    found = {}
    for place, size in enumerate(SIZES):

        def loop(vector: Any, key: int = place) -> Any:
            def body(step: Any, held: Any) -> tuple[Any, Any]:
                (summed,) = sums(0, iter([key]), [held])
                return step + 1, summed / cluster.num_workers

            return tf.while_loop(
                lambda step, _: step < _STEPS, body, (0, vector), parallel_iterations=1
            )[1]

        function: Callable[[Any], Any] = tf.function(loop, autograph=False)
        vector = tf.ones([size])
        function(vector)
        seconds = []
        for _ in range(_TIMES):
            start = time.perf_counter()
            function(vector).numpy()
            seconds.append((time.perf_counter() - start) / _STEPS)
        found[size] = statistics.median(seconds)
    if cluster.is_chief:
        path.write_text(json.dumps(found))
    cluster.wait_for_all()


def run(command: Sequence[str], workers: int) -> None:
    """Runs a command in some workers."""
    out = io.StringIO()
    code = run_job(workers, command, out=out, errors=out)
    if code:
        raise RuntimeError(f"{workers} workers ended with exit code {code}:\n{out.getvalue()}")


def trained(folder: Path, workers: int, implementation: str) -> dict[str, Any]:
    """Trains with some workers; returns summary.json."""
    command = [
        *(sys.executable, "-m", "harness", "train", "--data", "synthetic", "--epochs", "6"),
        *("--synthetic-rows", "20000", "--batch-size", str(_ROWS * workers)),
        *("--precision", "float32", "--implementation", implementation, "--input", "resident"),
        *("--tensorboard", "off", "--telemetry-hz", "0", "--run-dir", str(folder)),
    ]
    run(command, workers)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def main() -> int:
    """Measures, and prints the tables."""
    with tempfile.TemporaryDirectory() as name:
        measured: dict[int, dict[str, float]] = {}
        print("| elements | bytes |" + "".join(f" {n} workers, ms |" for n in WORKERS))
        print("| ---: | ---: |" + " ---: |" * len(WORKERS))
        for workers in WORKERS:
            path = Path(name) / f"{workers}.json"
            run([sys.executable, "-m", "benchmarks.cluster.scaling", str(path)], workers)
            measured[workers] = json.loads(path.read_text())
        for size in SIZES:
            cells = "".join(f" {1e3 * measured[n][str(size)]:.2f} |" for n in WORKERS)
            print(f"| {size:,} | {4 * size:,} |{cells}", flush=True)
        print("\n| workers | ms a step | without the all-reduce | examples/s | efficiency |")
        print("| ---: | ---: | ---: | ---: | ---: |")
        for workers in (1, *WORKERS):
            summary = trained(Path(name) / f"train-{workers}", workers, "native")
            step = 1e3 / summary["mean_steps_per_second"]
            efficiency = summary["scaling_efficiency"]
            alone = step if efficiency is None else step * efficiency
            shown = "" if efficiency is None else f"{efficiency:.2f}"
            print(
                f"| {workers} | {step:.2f} | {alone:.2f} | "
                f"{summary['mean_examples_per_second']:,.0f} | {shown} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        exchange(Path(sys.argv[1]))
    else:
        sys.exit(main())
