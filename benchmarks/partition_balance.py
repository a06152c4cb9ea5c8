"""How evenly the native kernels of touched rows share their work, for more threads than there are.

    .venv/bin/python -m benchmarks.partition_balance [--num-tokens 262144] [--batch-size 4096]

A simulation, not a measurement: the blocks that the kernels make of a batch of the synthetic corpus
are handed to threads as `parallel.h` does, each to the thread that is free first, with a cost for
each entry and slot that one thread was measured to take. What it leaves out is the memory, which
threads share. Printed are the parallel efficiency of all phases together, and the share of the time
in which only one thread can work.
"""

import argparse
import heapq
import sys

import numpy as np

from harness.data.options import SyntheticOptions
from harness.data.synthetic import synthetic_corpus
from kernels.multi_hot.native.table import partition

_GROUP = 16
_SLOTS_PER_BLOCK, _ROWS_PER_BLOCK = 64, 16
# Nanoseconds of one thread with 2^18 ids and Adagrad, by benchmarks on an AMD EPYC.
_COUNT, _SCATTER, _GROUPING, _FORWARD, _SUM, _UPDATE, _PREFIX = 0.8, 2.5, 2.9, 7.2, 2.9, 44.0, 1.0
_LEAST, _MOST_SERIAL, _AT = 0.7, 0.05, 16


def makespan(costs: np.ndarray, num_threads: int) -> float:
    """Of blocks that are taken in their order, each by the thread that is free first."""
    free = [0.0] * num_threads
    for cost in costs:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


def phases(ids: np.ndarray, splits: np.ndarray, num_tokens: int, threads: int) -> list[np.ndarray]:
    """The costs of the blocks of each phase between two points where all threads wait."""
    chunks, num_buckets = partition(len(ids), num_tokens, threads)
    rows = len(splits) - 1
    edges = splits[np.linspace(0, rows, chunks + 1).astype(int)]
    bucket = (ids // _GROUP) % num_buckets
    buckets = np.bincount(bucket, minlength=num_buckets)
    # Slots in the order of the index: bucket by bucket, ascending in each.
    distinct, counts = np.unique(ids, return_counts=True)
    order = np.lexsort((distinct, (distinct // _GROUP) % num_buckets))
    distinct, counts = distinct[order], counts[order]
    starts = list(range(0, len(distinct), _SLOTS_PER_BLOCK))
    for i, start in enumerate(starts):  # blocks end with a group
        while 0 < start < len(distinct) and (
            distinct[start] // _GROUP == distinct[start - 1] // _GROUP
        ):
            start += 1
        starts[i] = start
    forward = np.diff([*splits[::_ROWS_PER_BLOCK], splits[-1]]) * _FORWARD
    return [
        forward,
        np.diff(edges) * _COUNT,
        np.array([_PREFIX * num_buckets * chunks]),
        np.diff(edges) * _SCATTER,
        buckets * _GROUPING,
        np.array([_PREFIX * num_buckets]),
        np.add.reduceat(counts * _SUM + _UPDATE, [s for s in starts if s < len(distinct)]),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-tokens", type=int, default=2**18)
    parser.add_argument("--batch-size", type=int, default=4096)
    arguments = parser.parse_args()
    corpus = SyntheticOptions(
        synthetic_rows=arguments.batch_size, synthetic_tokens=arguments.num_tokens
    )
    sets = synthetic_corpus(corpus).unique()
    missed = 0
    for threads in (1, 2, 4, 8, 16, 32, 64):
        found = phases(sets.values, sets.row_splits, arguments.num_tokens, threads)
        spans = [makespan(costs, threads) for costs in found]
        work = sum(costs.sum() for costs in found)
        alone = sum(costs.sum() for costs in found if len(costs) == 1 and threads > 1)
        efficiency, serial = work / (threads * sum(spans)), alone / sum(spans)
        print(f"{threads:3} threads: efficiency {efficiency:.2f}, one thread alone {serial:.1%}")
        if threads == _AT:
            missed += (efficiency < _LEAST) + (serial > _MOST_SERIAL)
    return missed


if __name__ == "__main__":
    sys.exit(main())
