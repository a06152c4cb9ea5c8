"""Runs Python on two emulated GPUs: `python -m tests.emulated_gpu -m harness train ...`. Without
arguments it trains all of the matrix and prints it as a table, with `--rest` what the suite leaves
out; exit code 1 says that a loss is too far from a CPU's. It needs g++, liblz4 and two of NVIDIA's
packages, which `./scripts/test` installs. EMULATED_GPU_CC=90 and the like change the device: see
`device.environment`. The kernels run under sanitizers with EMULATED_GPU_FLAGS="-g
-fsanitize=address,undefined", ASAN_OPTIONS=detect_leaks=0, and libasan.so and libubsan.so in
LD_PRELOAD."""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import SkipTest

from tests.emulated_gpu import device

_AT_ONCE = 12  # trainings of one process, which has a limit of time


def run(arguments: list[str]) -> int:
    prefix = "EMULATED_GPU_"
    settings = {
        k.removeprefix(prefix).lower(): v for k, v in os.environ.items() if k.startswith(prefix)
    }
    with tempfile.TemporaryDirectory() as folder:
        settings = {"devices": "2", **settings}
        environment = device.environment(Path(folder), **settings)
        # Some programs use only CPUs unless this variable is set.
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(int(settings["devices"]))))
        return subprocess.run([sys.executable, *arguments], env=environment, check=False).returncode


def main() -> int:
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    is_matrix = sys.argv[1:] in ([], ["--rest"])
    try:
        device.build()
    except SkipTest as missing:
        print(f"skipped: {missing}", file=sys.stderr)
        return 0 if is_matrix else 2
    if not is_matrix:
        return run(sys.argv[1:])
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # of this process, which computes on the CPU
    from tests.emulated_gpu.trainings import GROUPS, distances, too_far  # they import TensorFlow

    print("| on the emulated device | loss, relative to the CPU's |\n| --- | --- |")
    wrong: list[str] = []
    for name, group in GROUPS.items():
        cases = group.more if len(sys.argv) > 1 else (*group.cases, *group.more)
        for first in range(0, len(cases), _AT_ONCE):
            part = replace(group, cases=cases[first : first + _AT_ONCE])
            with tempfile.TemporaryDirectory() as folder:
                found = distances(part, Path(folder))
            for case, distance in found.items():
                print(f"| {name}: {case} | {distance:.1e} |", flush=True)
            wrong += too_far(part, found)
    print(f"too far from a CPU's: {', '.join(wrong) or 'none'}")
    return min(len(wrong), 1)


if __name__ == "__main__":
    raise SystemExit(main())
