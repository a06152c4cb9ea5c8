"""A source ten times larger than the memory that a process may take: built, and trained on.

    python -m benchmarks.larger_than_memory --gigabytes 13 --folder SCRATCH

Memory is what the process allocates (RLIMIT_DATA): mapped files do not count, which the system
reads and drops as it likes. TensorFlow alone takes some 0.8 GB, and
a few numbers are kept for each row: of 10 GB a training lacked some megabytes.
"""

import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

_ROWS, _ROW_WORDS = 50_000, 230
_WORDS = 50_000


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is built and trained on."""

    folder: Path
    """For the source and the data set; both stay there."""

    gigabytes: float = 13.0
    """Of text."""

    share: float = 0.1
    """Of the source, that the process which builds may allocate, and the one that trains."""


def write_source(path: Path, gigabytes: float) -> None:
    """A table of reviews, the same 0.1 GB again and again: words by Zipf's law, of which some tell
    the class."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(_WORDS)])
    rows = []
    for row, ids in enumerate((rng.pareto(0.9, [_ROWS, _ROW_WORDS]) * 3).astype(np.int64) % _WORDS):
        label = row % 2
        ids = np.where(ids % 50 == 0, ids // 2 * 2 + label, ids)
        rows.append(f"{' '.join(words[ids])},{'ab'[label]}\n")
    content = "".join(rows)
    with path.open("w") as file:
        size = file.write("text,label\n")
        while size < gigabytes * 1e9:
            size += file.write(content)


def run(limit_bytes: int, *arguments: str) -> float:
    """`harness ARGUMENTS` under a limit; returns the seconds that it took."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))

    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "harness", *arguments], check=True, preexec_fn=limit)
    return time.perf_counter() - start


def main(config: Config) -> None:
    """Runs it, and prints the times."""
    config.folder.mkdir(parents=True, exist_ok=True)
    source, built = config.folder / "source.csv", config.folder / "built"
    if not source.exists():
        write_source(source, config.gigabytes)
    size = source.stat().st_size
    limit = int(config.share * size)
    seconds = run(limit, "data", "build", str(source), "--output", str(built))
    print(f"built {size / 1e9:.2f} GB with {limit / 1e9:.2f} GB in {seconds:,.0f} s")
    trained = ["train", "--data", str(built), "--input", "mapped", "--epochs", "1"]
    trained += ["--steps-per-dispatch", "20"]  # whose batches are in memory as well
    seconds = run(limit, *trained, "--run-dir", str(config.folder / "run"), "--overwrite")
    print(f"trained an epoch with {limit / 1e9:.2f} GB in {seconds:,.0f} s")


if __name__ == "__main__":
    main(tyro.cli(Config))
