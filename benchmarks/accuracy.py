"""Test accuracy over seeds for each precision, from whole runs of `harness train`.

.venv/bin/python -m benchmarks.accuracy --data imdb.npz --seeds 3
"""

import argparse
import statistics

from benchmarks.against_tutorial import run_ours
from harness.trainer.settings import PRECISIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="as for `harness train`")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for precision in PRECISIONS:
        runs = (run_ours(arguments.data, n, precision=precision) for n in range(arguments.seeds))
        found = [run["test_accuracy"] for run in runs]
        print(f"{precision:16} mean {statistics.fmean(found):.4f}  by seed {found}")


if __name__ == "__main__":
    main()
