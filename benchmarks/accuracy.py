"""Held-out accuracy over seeds, for each precision: whole runs of `harness train`.

.venv/bin/python benchmarks/accuracy.py --data imdb.npz --seeds 3 --out FILE.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.config import PRECISIONS
from harness.files import write_json
from harness.telemetry import host


def accuracy(data: str, precision: str, seed: int) -> float:
    """`test_accuracy` after two epochs at batch 500."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "harness", "train", "--data", data, "--epochs", "2"]
        command += ["--batch-size", "500", "--precision", precision, "--seed", str(seed)]
        subprocess.run([*command, "--run-dir", folder], check=True, stdout=subprocess.DEVNULL)
        return json.loads((Path(folder) / "summary.json").read_text())["test_accuracy"]


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
        content = {"host": host.host(), "versions": host.versions(), "data": arguments.data}
        content["data"] = Path(arguments.data).name
        write_json(arguments.out, {**content, "test_accuracy": figures})


if __name__ == "__main__":
    main()
