"""Training of Mult-VAE by this harness and by PyTorch, a few steps each in turn.

    .venv/bin/python -m benchmarks.compare_mult_vae --users 50000 --items 20000

Users have synthetic items, whose popularity falls as 1 / rank. The program prints the median wall
and CPU seconds of a turn, their ratios within a round, and each process's peak memory.
"""

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil

import harness
from benchmarks.compare_peers import Start, started, write_rows

PEERS = {"ours": "mult_vae", "PyTorch": "mult_vae_pytorch"}


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


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--mean", type=float, default=80, help="items of a user, repeated ones too")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--option", action="append", default=[], help="of both, as units=200")
    parser.add_argument("--samples", type=int, default=0, help="of ours; 0 for all items")
    parser.add_argument("--only", choices=list(PEERS))
    arguments = parser.parse_args()
    rows = synthetic(arguments.users, arguments.items, mean=arguments.mean)
    print(f"{rows!r}", file=sys.stderr)
    options = [f"items={arguments.items}", *arguments.option]
    seconds: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_rows(Path(folder), rows)
        peers = {}
        for name, module in PEERS.items():
            if arguments.only in (None, name):
                own = [*options, f"samples={arguments.samples}"] if name == "ours" else options
                start = Start(module, tuple(own), Path(folder), arguments.batch_size)
                peers[name], seconds[name] = stack.enter_context(started(start)), []
        for number in range(arguments.repeats):
            for name in peers if number % 2 == 0 else reversed(peers):
                process = psutil.Process(peers[name].pid)
                before = sum(process.cpu_times()[:2])
                turn = peers[name]()
                seconds[name].append((turn["seconds"], sum(process.cpu_times()[:2]) - before))
        for name, turns in seconds.items():
            wall, cpu = (statistics.median(part) for part in zip(*turns, strict=True))
            peak = peak_bytes(peers[name].pid) / 1e9
            print(f"{name:8} {wall:7.2f} s, {cpu:7.2f} s of CPU, peak {peak:.2f} GB")
    if len(seconds) > 1:
        for place, what in enumerate(("wall", "CPU")):
            pairs = zip(*seconds.values(), strict=True)
            ratios = sorted(theirs[place] / ours[place] for ours, theirs in pairs)
            print(
                f"PyTorch / ours, {what} seconds: {statistics.median(ratios):.2f} "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
            )


if __name__ == "__main__":
    main()
