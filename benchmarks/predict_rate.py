"""How many short lines a second `harness predict` judges, and how long one text takes from a cold
start: `python -m benchmarks.predict_rate`."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harness.data.vocabulary import Vocabulary

_COMMAND = [sys.executable, "-m", "harness"]
_NUM_TOKENS = 10_000


def main() -> None:
    """Trains a model on synthetic rows, gives its ids words, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=10, help="of a line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = folder / "run"
        _run("train", "--epochs", "1", "--run-dir", run)
        words = [f"word{token}" for token in range(_NUM_TOKENS)]
        ids = {word: token for token, word in enumerate(words) if token > 2}
        Vocabulary(ids=ids, num_tokens=_NUM_TOKENS, start_id=1, unknown_id=2).save(
            run / "vocabulary.json"
        )
        drawn = np.random.default_rng(0).zipf(1.3, [options.lines, options.words]) % _NUM_TOKENS
        with (folder / "lines").open("w") as file:
            file.writelines(" ".join([words[t] for t in row]) + "\n" for row in drawn.tolist())
        cold = _run("predict", "--model", run, "--texts", "word3 word4")
        print(f"one text from a cold start: {cold:.2f} s")
        for flags in ((), ("--json",)):
            seconds = _run("predict", "--model", run, "--files", folder / "lines", *flags)
            rate = options.lines / (seconds - cold)
            kind = " ".join(flags) or "plain"
            print(f"{kind}: {options.lines:,} lines in {seconds:.1f} s, ", end="")
            print(f"{rate:,.0f} lines/s without the start")


def _run(*arguments: object) -> float:
    start = time.perf_counter()
    command = [*_COMMAND, *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
