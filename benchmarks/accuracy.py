"""Test accuracy over seeds for each precision, from whole runs of `harness train`.

.venv/bin/python -m benchmarks.accuracy --data imdb.npz --seeds 3 --out FILE.json
"""

import argparse
import statistics
from pathlib import Path

from benchmarks.against_tutorial import summary_of_run
from harness.base.files import write_json
from harness.run import machine
from harness.trainer.settings import PRECISIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="as for `harness train`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()

    figures = {}
    for precision in PRECISIONS:
        flags = [("--precision", precision, "--seed", str(n)) for n in range(arguments.seeds)]
        found = [summary_of_run(arguments.data, *own)["test_accuracy"] for own in flags]
        figures[precision] = {"mean": statistics.fmean(found), "by_seed": found}
        print(f"{precision:16} mean {statistics.fmean(found):.4f}  by seed {found}")
    if arguments.out:
        content = {"host": machine.host(), "versions": machine.versions()}
        content |= {"data": Path(arguments.data).name, "test_accuracy": figures}
        write_json(arguments.out, content)


if __name__ == "__main__":
    main()
