"""Training of Mult-VAE by this harness and by PyTorch, a few steps each in turn.

    .venv/bin/python -m benchmarks.compare_mult_vae --users 50000 --items 20000

Users have synthetic items, whose popularity falls as 1 / rank. The program prints the median wall
and CPU seconds of a turn, their ratios within a round, and each process's peak memory.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

import harness
from benchmarks.compare_peers import measure, ratio, start_of, write_rows

FIGURES = ("seconds", "cpu_seconds")


def synthetic(users: int, items: int, *, mean: float) -> harness.RaggedSets:
    """Returns `mean` items a user on average, before repeated ones are dropped."""
    rng = np.random.default_rng(0)
    lengths = rng.poisson(mean, users)
    shares = 1 / np.arange(1, items + 1)
    values = np.searchsorted(np.cumsum(shares / shares.sum()), rng.random(lengths.sum()))
    splits = np.concatenate([[0], np.cumsum(lengths)])
    return harness.RaggedSets(
        values=np.minimum(values, items - 1), row_splits=splits, num_tokens=items
    ).unique()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--mean", type=float, default=80, help="items of a user, repeated ones too")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--option", action="append", default=[], help="of both, as units=200")
    parser.add_argument("--samples", type=int, default=0, help="of ours; 0 for all items")
    arguments = parser.parse_args()
    rows = synthetic(arguments.users, arguments.items, mean=arguments.mean)
    print(f"{rows!r}", file=sys.stderr)
    options = (f"items={arguments.items}", *arguments.option)
    sampled = (*options, f"samples={arguments.samples}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_rows(folder, rows)
        starts = {
            "ours": start_of("mult_vae", sampled, folder, arguments.batch_size),
            "PyTorch": start_of("mult_vae_pytorch", options, folder, arguments.batch_size),
        }
        turns = measure(starts, repeats=arguments.repeats)
    for name, own in turns.items():
        wall, cpu = (statistics.median(turn[f] for turn in own) for f in FIGURES)
        peak = own[-1]["peak_bytes"] / 1e9
        print(f"{name:8} {wall:7.2f} s, {cpu:7.2f} s of CPU, peak {peak:.2f} GB")
    for figure in FIGURES:
        median, low, high = ratio(turns["PyTorch"], turns["ours"], figure)
        print(f"PyTorch / ours, {figure}: {median:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
