"""Training throughput with large vocabularies, and PyTorch's sparse optimizers beside it.

    .venv/bin/python -m benchmarks.big_vocabularies [--repeats 7] [--out FILE.json]

The rows are the synthetic corpus's, each id once: 130 to 150 ids a row with the frequencies of
words, in batches of 4,096. With 2^22 ids, each of 2^20 words has a random one of them, as under
hashing. Every program is a process that stays loaded and trains an epoch in each round, in turn.
The program prints medians over the rounds: examples per second, and the ratios within a round, by
wall time, and by the processor's time, which other programs on the machine disturb less. If PyTorch
is not installed, it says so and leaves PyTorch out.
"""

import argparse
import importlib.util
import re
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.compare_peers import NUM_THREADS, Start, measure, write_rows
from harness.base.files import write_json
from harness.data.options import SyntheticOptions
from harness.data.ragged import RaggedSets
from harness.data.synthetic import synthetic_corpus
from harness.run.observers import host

_BATCH_SIZE = 4096
_MOST_WORDS = 2**20
_SMALL, _LARGE, _LARGEST = 10_000, 2**18, 2**22


class Program(NamedTuple):
    """A training to measure."""

    num_tokens: int
    optimizer: str
    dtype: str = "float32"
    module: str = "ours"

    @property
    def name(self) -> str:
        """The name to print."""
        whose = "PyTorch" if self.module == "pytorch" else "ours"
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{whose}, {self.optimizer}{dtype}, {self.num_tokens:,} ids"

    @property
    def options(self) -> tuple[str, ...]:
        """The options of the peer's process."""
        table = f"num_tokens={self.num_tokens}"
        if self.module == "pytorch":
            return table, f"sparse={self.optimizer}"
        how = f"table_optimizer={self.optimizer}", f"table_dtype={self.dtype}"
        return table, *how, "implementation=native"


OURS = [
    Program(_SMALL, "dense"),
    *(Program(_LARGE, o) for o in ("lazy_adam", "adagrad", "exact_adam", "dense")),
    *(Program(_LARGEST, o) for o in ("lazy_adam", "adagrad", "exact_adam")),
    *(Program(V, "adagrad", "bfloat16") for V in (_LARGE, _LARGEST)),
]
PEERS = [Program(_LARGE, optimizer, module="pytorch") for optimizer in ("adam", "adagrad")]
RATIOS = [
    *((row, OURS[0]) for row in (OURS[1], OURS[2], OURS[3], OURS[8])),
    *((OURS[5], OURS[1]), (OURS[6], OURS[2]), (OURS[7], OURS[3]), (OURS[9], OURS[8])),
    *((OURS[1], PEERS[0]), (OURS[2], PEERS[1])),
]
"""The programs whose throughput is compared, numerator and denominator."""


def rows_of(num_tokens: int, num_rows: int) -> RaggedSets:
    """Returns the synthetic corpus with its words spread over so many ids."""
    words = min(num_tokens, _MOST_WORDS)
    rows = synthetic_corpus(SyntheticOptions(synthetic_rows=num_rows, synthetic_tokens=words))
    rows = rows.unique()
    if words == num_tokens:
        return rows
    spread = np.random.default_rng(0).permutation(num_tokens).astype(np.int32)
    return rows.derived(values=spread[rows.values], num_tokens=num_tokens)


def main() -> None:
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
    with tempfile.TemporaryDirectory() as temporary:
        folders = {V: Path(temporary, str(V)) for V in {p.num_tokens for p in programs}}
        for num_tokens, folder in folders.items():
            folder.mkdir()
            write_rows(folder, rows_of(num_tokens, num_rows))
        starts = {
            p.name: Start(p.module, p.options, folders[p.num_tokens], _BATCH_SIZE) for p in programs
        }
        by_name = measure(starts, repeats=arguments.repeats)
    epochs = {program: by_name[program.name] for program in programs}
    report(epochs, num_rows, arguments.out)


def report(
    epochs: Mapping[Program, list[dict[str, float]]], num_rows: int, out: Path | None
) -> None:
    """Prints and writes the figures."""
    figures = {}
    for program, found in epochs.items():
        rates = [num_rows / epoch["seconds"] for epoch in found]
        cpu = [epoch["cpu_seconds"] for epoch in found]
        figures[program.name] = {"examples_per_second": rates, "cpu_seconds": cpu}
        print(
            f"{program.name:36} {statistics.median(rates):12,.0f} examples/s, "
            f"{1e6 * statistics.median(cpu) / num_rows:8,.1f} us of the processor an example"
        )
    ratios = {}
    for above, below in RATIOS:
        if above not in epochs or below not in epochs:
            continue
        name = f"{above.name} / {below.name}"
        by_wall, by_cpu = (
            [b[field] / a[field] for a, b in zip(epochs[above], epochs[below], strict=True)]
            for field in ("seconds", "cpu_seconds")
        )
        ratios[name] = {"by_wall": by_wall, "by_cpu": by_cpu}
        print(
            f"{name:62} {statistics.median(by_wall):5.2f} ({min(by_wall):.2f} to "
            f"{max(by_wall):.2f}), by the processor's time {statistics.median(by_cpu):.2f}"
        )
    if out is not None:
        machine = {"host": host.host(), "versions": host.versions(), "threads": NUM_THREADS}
        content = {**machine, "batch_size": _BATCH_SIZE, "figures": figures, "ratios": ratios}
        write_json(out, content)


if __name__ == "__main__":
    main()
