"""Whether `summary.json` tells the truth: its examples/s against a clock outside the process.

    .venv/bin/python -m benchmarks.outside_clock --runs 9

Each run is a process that trains one epoch. The clock is the file system's: training lasts from the
time at which config.json was written, just before it, to that of the last line of metrics.jsonl.
The compilation in between, whose seconds summary.json holds, is left out. All examples over that
time are the throughput as seen from outside.

Judged is `mean_examples_per_second`: it must be within --tolerance in every run, or the exit code
is 1. `examples_per_second`, the median over windows, is shown beside it; it leaves slow windows
out, and so deviates wherever a machine is disturbed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
from harness.files import write_json
from harness.observe import host

_TRAIN = """
import sys
import harness
from benchmarks.training import tutorial_network

_, folder, repeats, batch_size = sys.argv
rows = harness.load("synthetic").train
rows = harness.RaggedSets.concatenate([rows] * int(repeats), name="repeated")
trainer = harness.Trainer(tutorial_network, batch_size=int(batch_size))
# TensorBoard's files would be opened between config.json and the first step.
trainer.fit(rows, run_dir=folder, tensorboard="off", verbose=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=25, help="of 40,000 rows, in one epoch")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--tolerance", type=float, default=0.03, help="as a share")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()
    runs = []
    for _ in range(arguments.runs):
        runs.append(run(arguments.repeats, arguments.batch_size))
        print(
            f"outside {runs[-1]['outside']:,.0f} examples/s; summary.json: "
            f"mean {runs[-1]['mean']:,.0f} ({_deviation(runs[-1], 'mean'):+.2%}), "
            f"median of windows {runs[-1]['median']:,.0f} ({_deviation(runs[-1], 'median'):+.2%})",
            flush=True,
        )
    for figure in ("mean", "median"):
        deviations = [_deviation(one, figure) for one in runs]
        print(
            f"{figure}: {statistics.median(deviations):+.2%} in the median of {len(runs)} runs "
            f"({min(deviations):+.2%} to {max(deviations):+.2%})"
        )
    if arguments.out:
        settings = {"repeats": arguments.repeats, "batch_size": arguments.batch_size}
        content = {**settings, "host": host.host(), "versions": host.versions(), "runs": runs}
        write_json(arguments.out, content)
    if max(abs(_deviation(one, "mean")) for one in runs) > arguments.tolerance:
        sys.exit(f"mean_examples_per_second deviates by more than {arguments.tolerance:.1%}")


def run(repeats: int, batch_size: int) -> dict[str, float]:
    """Examples/s of one training: from `outside`; `mean` and `median` of summary.json."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        command = [sys.executable, "-c", _TRAIN, str(folder), str(repeats), str(batch_size)]
        subprocess.run(command, check=True, cwd=Path(harness.__file__).parents[1])
        written = [(folder / n).stat().st_mtime for n in ("config.json", "metrics.jsonl")]
        summary = json.loads((folder / "summary.json").read_text())
    seconds = written[1] - written[0] - summary["compile_seconds"]
    return {
        "outside": summary["dataset"]["rows"] / seconds,
        "mean": summary["mean_examples_per_second"],
        "median": summary["examples_per_second"],
    }


def _deviation(one: dict[str, float], figure: str) -> float:
    return one[figure] / one["outside"] - 1


if __name__ == "__main__":
    main()
