"""Test accuracy over seeds for each precision, from whole runs of `harness train`.

.venv/bin/python -m benchmarks.accuracy --data imdb.npz --seeds 3 --out FILE.json
"""

import argparse
import statistics
from pathlib import Path

from benchmarks.runs import summary_of_run
from harness.base.files import write_json
from harness.run import machine
from harness.trainer.settings import PRECISIONS


def accuracy(data: str, precision: str, seed: int) -> float:
    """Returns `test_accuracy` after two epochs at batch 500."""
    summary = summary_of_run(data, "--precision", precision, "--seed", str(seed))
    return float(summary["test_accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="as for `harness train`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()

    figures = {}
    for precision in PRECISIONS:
        found = [accuracy(arguments.data, precision, seed) for seed in range(arguments.seeds)]
        figures[precision] = {"mean": statistics.fmean(found), "by_seed": found}
        print(f"{precision:16} mean {statistics.fmean(found):.4f}  by seed {found}")
    if arguments.out:
        content = {"host": machine.host(), "versions": machine.versions()}
        content |= {"data": Path(arguments.data).name, "test_accuracy": figures}
        write_json(arguments.out, content)


if __name__ == "__main__":
    main()
