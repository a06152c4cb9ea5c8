"""Training throughput of this harness and its peers, epoch by epoch in turn.

    .venv/bin/python -m benchmarks.compare_peers --data imdb.npz --batch-size 500 --repeats 7

Every peer is a process that stays loaded (benchmarks/peers/protocol.py). In each round each of them
trains one epoch; the order alternates. All get the same rows, sizes and number of threads, and
compilation is left out. The program prints rows of Markdown: the median over rounds, the 20th and
the 80th percentile, and how much faster the first peer is within a round.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness.base.files import write_json
from harness.run import machine

PEERS = {
    "ours": ("ours", ()),
    "ours, gather": ("ours", ("implementation=gather",)),
    "the tutorial's fit": ("tutorial_fit", ()),
    "Keras CategoryEncoding": ("category_encoding", ()),
    "PyTorch EmbeddingBag": ("pytorch", ()),
    "PyTorch EmbeddingBag, compiled": ("pytorch", ("compiled",)),
    "scikit-learn MLPClassifier": ("scikit_learn", ()),
    "JAX segment_sum": ("jax_segments", ()),
}
NUM_THREADS = 2


def start_of(module: str, options: Iterable[str], folder: Path, batch_size: int) -> list[str]:
    """Returns the command of a peer, a module in benchmarks.peers, for the rows in a folder."""
    command = [sys.executable, "-m", f"benchmarks.peers.{module}", "--data", str(folder)]
    command += ["--batch-size", str(batch_size), "--threads", str(NUM_THREADS)]
    return command + [word for option in options for word in ("--option", option)]


class Peer(AbstractContextManager["Peer"]):
    """A loaded peer; a call trains an epoch and returns its figures."""

    def __init__(self, command: list[str]) -> None:
        pipe, root = subprocess.PIPE, Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=root)
        if self._read() != "ready":
            raise RuntimeError("a peer did not get ready")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def __call__(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("epoch\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"a peer ended with exit code {self._process.wait()}")
        return line


def measure(starts: Mapping[str, list[str]], *, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Returns the epochs of each peer, by its name, in the order of the rounds."""
    with ExitStack() as stack:
        peers = {}
        for name, start in starts.items():
            print(f"loading {name} ...", file=sys.stderr)
            peers[name] = stack.enter_context(Peer(start))
        epochs: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
        for number in range(repeats):
            for name in peers if number % 2 == 0 else reversed(peers):
                epochs[name].append(peers[name]())
    return epochs


def ratio(
    above: Sequence[Mapping[str, Any]], below: Sequence[Mapping[str, Any]], figure: str
) -> tuple[float, float, float]:
    """Returns the median, minimum and maximum over rounds of a figure's ratio within a round."""
    ratios = [a[figure] / b[figure] for a, b in zip(above, below, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def write_rows(folder: Path, rows: harness.RaggedSets) -> None:
    """Writes the files that benchmarks/peers/protocol.py loads."""
    for part in ("values", "row_splits", "labels"):
        np.save(folder / f"{part}.npy", getattr(rows, part))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="as for `harness train`")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="default: all")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()
    if arguments.repeats < 2:
        parser.error("--repeats must be at least 2: a range is given")

    rows = harness.load(arguments.data).train
    names = arguments.peer or list(PEERS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_rows(folder, rows)
        starts = {name: start_of(*PEERS[name], folder, arguments.batch_size) for name in names}
        epochs = measure(starts, repeats=arguments.repeats)
    print("| training, examples/s | rate | ours faster by | loss |\n| --- | --- | --- | --- |")
    figures = {}
    for name in names:
        rates = sorted(rows.num_rows / epoch["seconds"] for epoch in epochs[name])
        p20, _, _, p80 = statistics.quantiles(rates, n=5)
        median, *ends = ratio(epochs[name], epochs[names[0]], "seconds")
        figures[name] = {
            "examples_per_second": statistics.median(rates),
            "p20": p20,
            "p80": p80,
            f"{names[0]} is faster by": median,
            "ratio_range": ends,
            "last_loss": epochs[name][-1]["loss"],
        }
        rate = f"{statistics.median(rates):,.0f} ({p20:,.0f} to {p80:,.0f})"
        spread = f"{median:.2f} ({ends[0]:.2f} to {ends[1]:.2f})"
        print(f"| {name} | {rate} | {spread} | {epochs[name][-1]['loss']:.4f} |")
    if arguments.out:
        content: dict[str, Any] = {"host": machine.host(), "versions": machine.versions()}
        content |= {"data": Path(arguments.data).name, "batch_size": arguments.batch_size}
        write_json(arguments.out, {**content, "threads": NUM_THREADS, "figures": figures})


if __name__ == "__main__":
    main()
