"""Training throughput with large vocabularies, and PyTorch's sparse optimizers beside it.

    .venv/bin/python -m benchmarks.big_vocabularies [--repeats 7] [--out FILE.json]

The rows are the synthetic corpus's, each id once: 130 to 150 ids a row with the frequencies of
words, in batches of 4,096. With 2^22 ids, each of 2^20 words has a random one of them, as hashing
has it. Every program is a process that stays loaded and trains an epoch in each round, in turn.
Printed are medians over the rounds: examples per second, and the ratios within a round, by wall
time, and by the processor's time, which other programs on the machine disturb less.
PyTorch is left out where it is not installed, which is said.
"""

import argparse
import importlib.util
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.compare_peers import Peer
from harness.data.options import SyntheticOptions
from harness.data.synthetic import synthetic_corpus
from harness.files import write_json
from harness.observe import host

_BATCH_SIZE, _NUM_THREADS = 4096, 2
_MOST_WORDS = 2**20
_SMALL, _LARGE, _LARGEST = 10_000, 2**18, 2**22


class Program(NamedTuple):
    """What is trained."""

    num_tokens: int
    module: str
    optimizer: str
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """For people."""
        whose = "PyTorch" if self.module == "pytorch_sparse" else "ours"
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{whose}, {self.optimizer}{dtype}, {self.num_tokens:,} ids"


OURS = [
    Program(_SMALL, "ours_by_rows", "dense"),
    *(Program(_LARGE, "ours_by_rows", o) for o in ("lazy_adam", "adagrad", "exact_adam", "dense")),
    *(Program(_LARGEST, "ours_by_rows", o) for o in ("lazy_adam", "adagrad", "exact_adam")),
    *(Program(V, "ours_by_rows", "adagrad", "bfloat16") for V in (_LARGE, _LARGEST)),
]
PEERS = [Program(_LARGE, "pytorch_sparse", optimizer) for optimizer in ("adam", "adagrad")]
BARS = [
    # (numerator, denominator, at least)
    (OURS[1], OURS[0], 0.7),
    (OURS[2], OURS[0], 0.7),
    (OURS[3], OURS[0], 0.5),
    (OURS[5], OURS[1], 0.5),
    (OURS[6], OURS[2], 0.5),
    (OURS[7], OURS[3], 0.5),
    (OURS[8], OURS[0], 0.7),
    (OURS[9], OURS[8], 0.5),
    (OURS[1], PEERS[0], 3.0),
    (OURS[2], PEERS[1], 3.0),
]


def write_rows(folder: Path, num_tokens: int, num_rows: int) -> None:
    """Rows for benchmarks/peers/protocol.py."""
    words = min(num_tokens, _MOST_WORDS)
    rows = synthetic_corpus(SyntheticOptions(synthetic_rows=num_rows, synthetic_tokens=words))
    rows = rows.unique()
    values = rows.values
    if words < num_tokens:
        values = np.random.default_rng(0).permutation(num_tokens).astype(np.int32)[values]
    for name, array in (
        ("values", values),
        ("row_splits", rows.row_splits),
        ("labels", rows.labels),
    ):
        np.save(folder / f"{name}.npy", array)


@contextmanager
def started(program: Program, folder: Path) -> Iterator[Peer]:
    """A program's process, ended afterwards."""
    command = [sys.executable, "-m", f"benchmarks.peers.{program.module}", "--data", str(folder)]
    command += ["--batch-size", str(_BATCH_SIZE), "--threads", str(_NUM_THREADS)]
    command += ["--option", program.optimizer, "--option", f"V={program.num_tokens}"]
    command += ["--option", program.dtype] if program.module == "ours_by_rows" else []
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    try:
        yield Peer(process)
    finally:
        process.kill()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12, help="of an epoch")
    parser.add_argument("--match", default="", help="only programs whose name has this, a regex")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()
    if arguments.repeats < 2:
        parser.error("--repeats must be at least 2: a range is given")
    programs = [*OURS, *PEERS]
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed (the extra `peers`): it is left out", file=sys.stderr)
        programs = OURS
    programs = [program for program in programs if re.search(arguments.match, program.name)]
    num_rows = arguments.steps * _BATCH_SIZE
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folders = {V: Path(temporary, str(V)) for V in {p.num_tokens for p in programs}}
        for num_tokens, folder in folders.items():
            folder.mkdir()
            write_rows(folder, num_tokens, num_rows)
        peers = {}
        for program in programs:
            print(f"loading {program.name} ...", file=sys.stderr)
            peers[program] = stack.enter_context(started(program, folders[program.num_tokens]))
        epochs: dict[Program, list[dict[str, float]]] = {program: [] for program in programs}
        for number in range(arguments.repeats):
            for program in programs if number % 2 == 0 else reversed(programs):
                epochs[program].append(peers[program]())
    return report(epochs, num_rows, arguments.out)


def report(
    epochs: Mapping[Program, list[dict[str, float]]], num_rows: int, out: Path | None
) -> int:
    """Prints and writes the figures; returns how many bars they miss."""
    figures = {}
    for program, found in epochs.items():
        rates = [num_rows / epoch["seconds"] for epoch in found]
        cpu = [epoch["cpu_seconds"] for epoch in found]
        figures[program.name] = {"examples_per_second": rates, "cpu_seconds": cpu}
        print(
            f"{program.name:36} {statistics.median(rates):12,.0f} examples/s, "
            f"{1e6 * statistics.median(cpu) / num_rows:8,.1f} us of the processor an example"
        )
    missed = 0
    ratios = {}
    for above, below, least in BARS:
        if above not in epochs or below not in epochs:
            continue
        name = f"{above.name} / {below.name}"
        by_wall, by_cpu = (
            [b[field] / a[field] for a, b in zip(epochs[above], epochs[below], strict=True)]
            for field in ("seconds", "cpu_seconds")
        )
        ratio = statistics.median(by_wall)
        ratios[name] = {"by_wall": by_wall, "by_cpu": by_cpu, "at least": least}
        missed += ratio < least
        print(
            f"{name:62} {ratio:5.2f} ({min(by_wall):.2f} to {max(by_wall):.2f}), by the "
            f"processor's time {statistics.median(by_cpu):.2f}; at least {least}"
            f"{'' if ratio >= least else ': MISSED'}"
        )
    if out is not None:
        machine = {"host": host.host(), "versions": host.versions(), "threads": _NUM_THREADS}
        content = {**machine, "batch_size": _BATCH_SIZE, "figures": figures, "ratios": ratios}
        write_json(out, content)
    return missed


if __name__ == "__main__":
    sys.exit(main())
