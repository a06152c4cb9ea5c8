"""The contract that a real GPU is tested with, in several orders of blocks and lanes."""

import subprocess
import sys
from pathlib import Path

from tests.emulated_gpu import device

# Hundreds of programs, or hundreds of runs of a large one, would take minutes.
_QUICK = "weights or wrong_data or uint16 or accumulate or repeated or shares or touched_rows_are"


def test_the_contract_holds(tmp_path: Path) -> None:
    """Every buffer of the kernels ends at a page that must not be touched."""
    environment = device.environment(tmp_path, seed=2, cc=90, guard=1)
    variables = {"TF_GPU_ALLOCATOR": "cuda_malloc_async", "CUDA_VISIBLE_DEVICES": "0"}
    command = [sys.executable, "-m", "pytest", "-x", "-k", _QUICK]
    done = subprocess.run(
        [*command, "tests/kernels/multi_hot/cuda/test_on_gpu.py"],
        env=environment | variables, cwd=device.ROOT,
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
