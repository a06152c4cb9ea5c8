"""Random batches through the emulated CUDA kernels, against sums in double precision.

    .venv/bin/python -m benchmarks.cuda_emulation.fuzz [--cases 10000] [--seed N]

Every batch runs in three orders of blocks, warps and lanes, which must give the same bits. One in
eight is wrong somewhere; the rows concerned must be NaN, and the gradient.
"""

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.cuda_emulation.emulator import compile_program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    arguments = parser.parse_args()
    num_processes = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(num_processes) as pool:
        program = Path(folder) / "fuzz"
        compile_program(["fuzz.cc"], program, "-O2")

        def run(part: int) -> subprocess.CompletedProcess[str]:
            cases = len(range(part, arguments.cases, num_processes))
            command = [str(program), str(arguments.seed + part), str(cases)]
            return subprocess.run(command, capture_output=True, text=True, check=False)

        results = list(pool.map(run, range(num_processes)))
    for result in results:
        print(f"{result.stdout.strip()}{result.stderr}")
    return max(abs(result.returncode) for result in results)


if __name__ == "__main__":
    sys.exit(main())
