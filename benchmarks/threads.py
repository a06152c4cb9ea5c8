"""Tests whether the process keeps its number of threads over many steps of two replicas.

    .venv/bin/python -m benchmarks.threads [--steps 20000]

TensorFlow's own all-reduce in compiled functions keeps a thread for each call and GPU
(tensorflow 56423); `kernels.all_reduce` does not. Threads are counted every few hundred steps;
their number must not grow with the steps. On two GPUs this is the training step as users run it.
Without a GPU the two replicas are shares of one program's batches.
"""

import argparse
import os
import sys

import harness
from benchmarks.training import tutorial_network

_STEPS_PER_SAMPLE = 200
_LATE = 8
"""The most threads that may be added, in a run of any length. Some of TensorFlow's pools have no
bound, and get a thread more whenever more tasks wait at once than ever before. A leak adds a thread
with each call: thousands."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    num_steps = max(_STEPS_PER_SAMPLE, parser.parse_args().steps)
    trainer = harness.Trainer(tutorial_network, batch_size=50, replicas=2, steps_per_dispatch=10)
    steps = trainer.steps(harness.load("synthetic").train)
    counts = []
    for _ in range(num_steps // _STEPS_PER_SAMPLE):
        steps.run(num_steps=_STEPS_PER_SAMPLE)
        counts.append(len(os.listdir("/proc/self/task")))
    print(
        f"{num_steps:,} steps on {' and '.join(steps.start.devices)}: {counts[0]} threads at "
        f"first, {counts[-1]} at last, {max(counts)} at most"
    )
    if counts[-1] - counts[0] > _LATE:
        print("the number of threads grows", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
