"""Tests whether several workers train as one: losses of 1, 2 and 3 processes on this machine.

    python -m benchmarks.cluster.parity [STEPS [WORKERS ...]]

Prints the largest relative difference of a loss for each case; exit code 1 when one is above 1e-5
in float32, or when workers of one job end with different weights.
"""

import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cluster.worker import CASES, losses
from harness.workers.launcher import run_job

MOST = 1e-5
"""The largest relative difference of a loss allowed in float32."""


def run(
    folder: Path, *, workers: int, steps: int, cases: Sequence[str] = CASES
) -> list[dict[str, Any]]:
    """Trains cases with some workers; returns what each of them wrote."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.cluster.worker", str(folder), str(steps), *cases]
    out = io.StringIO()
    code = run_job(workers, command, out=out, errors=out)
    if code:
        raise RuntimeError(f"{workers} workers ended with exit code {code}:\n{out.getvalue()}")
    return [json.loads((folder / f"worker-{i}.json").read_text()) for i in range(workers)]


def differences(
    reference: Path, folder: Path, one: dict[str, Any], several: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Returns the largest relative difference of a loss by case; checks everything else.

    Args:
        reference, folder: the folders of a run with one process and of one with several.
        one, several: the results that their workers wrote.
    """
    found = {}
    for case in one:
        own, expected = losses(folder, case), losses(reference, case)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(own), finite)
        found[case] = float(np.max(np.abs(own - expected)[finite] / np.abs(expected[finite])))
        for worker in several:
            for name in ("weights", "predictions", "skipped"):
                np.testing.assert_array_equal(worker[case][name], several[0][case][name])
            assert worker[case]["skipped"] == one[case]["skipped"], (case, worker[case]["skipped"])
            for name, value in one[case]["evaluation"].items():
                np.testing.assert_allclose(worker[case]["evaluation"][name], value, rtol=0.01)
    return found


def main(arguments: Sequence[str]) -> int:
    steps = int(arguments[0]) if arguments else 200
    counts = list(map(int, arguments[1:])) or [2, 3]
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (one,) = run(folder / "1", workers=1, steps=steps)
        for workers in counts:
            several = run(folder / str(workers), workers=workers, steps=steps)
            found = differences(folder / "1", folder / str(workers), one, several)
            for case, difference in found.items():
                print(f"{workers} workers, {steps} steps, {case}: {difference:.1e}", flush=True)
                if "float16" not in case:
                    worst = max(worst, difference)
    print(f"largest in float32: {worst:.1e}; allowed: {MOST:.0e}")
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
