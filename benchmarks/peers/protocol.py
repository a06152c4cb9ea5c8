"""The protocol of all peers: the same data, sizes and thread count, and the request for an epoch.

A peer loads, trains one epoch to warm up, in which it compiles everything, and prints "ready".
Then, for each line on standard input, it trains one more epoch, and prints as JSON the epoch's
seconds, CPU seconds and mean loss, and the peak memory so far. So several peers can take turns
while all of them stay loaded: a machine that drifts favours none of them.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.run import machine

NUM_TOKENS = 10_000
HIDDEN_UNITS = (50, 50, 50)
DROPOUT = (0.3, 0.2, 0.0)
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Task:
    """The rows to train on, and the settings."""

    values: np.ndarray  # The ids, int32 [nnz], unique within a row
    row_splits: np.ndarray  # The begins and ends of the rows, int64 [rows + 1]
    labels: np.ndarray  # The class of each row, int32 [rows]
    batch_size: int
    threads: int
    options: tuple[str, ...]  # Variants of a peer, such as `compiled` or `implementation=gather`

    @property
    def named(self) -> dict[str, Any]:
        """The options that have a value, by name."""
        return dict(option.split("=", 1) for option in self.options if "=" in option)

    @property
    def num_rows(self) -> int:
        return len(self.labels)

    def shuffled(self, rng: np.random.Generator) -> "Task":
        """Returns the rows in a new order, vectorized: no peer pays for a loop over rows."""
        rows = rng.permutation(self.num_rows)
        lengths = np.diff(self.row_splits)[rows]
        row_splits = np.concatenate([[0], np.cumsum(lengths)])
        source = np.repeat(self.row_splits[:-1][rows] - row_splits[:-1], lengths)
        source += np.arange(len(source))
        return replace(
            self, values=self.values[source], row_splits=row_splits, labels=self.labels[rows]
        )


def load() -> Task:
    """Loads the task that the command line names: the rows are values.npy, row_splits.npy and
    labels.npy in a folder. Limits the threads of NumPy's libraries and of TensorFlow, which read
    their number when they are imported."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--option", action="append", default=[])
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ[name] = str(arguments.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parts = ("values", "row_splits", "labels")
    return Task(
        **{part: np.load(arguments.data / f"{part}.npy") for part in parts},
        batch_size=arguments.batch_size,
        threads=arguments.threads,
        options=tuple(arguments.option),
    )


def serve(train_epoch: Callable[[], float | tuple[float, float]]) -> None:
    """Warms up, then trains an epoch for every line on standard input. `train_epoch` trains on all
    rows once, waits until all is done, and returns their mean loss, and the seconds to report if
    only a part of the call counts."""
    train_epoch()
    print("ready", flush=True)
    for _ in sys.stdin:
        start, cpu_start = time.perf_counter(), time.process_time()
        found = train_epoch()
        loss, seconds = found if isinstance(found, tuple) else (found, time.perf_counter() - start)
        figures = {
            "seconds": seconds,
            "cpu_seconds": time.process_time() - cpu_start,
            "peak_bytes": machine.peak_rss_bytes(),
            "loss": float(loss),
        }
        print(json.dumps(figures), flush=True)
