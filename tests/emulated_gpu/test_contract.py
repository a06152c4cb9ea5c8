"""The contract that a real GPU is tested with, in several orders of blocks and lanes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulated_gpu import device

# Hundreds of programs, or hundreds of runs of a large one, would take minutes.
_QUICK = "not property and not any_batch and not same_bits"


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ({"seed": 1, "cc": 70}, {}),
        # Every buffer of the kernels ends at a page that must not be touched.
        ({"seed": 2, "cc": 90, "guard": 1}, {"TF_GPU_ALLOCATOR": "cuda_malloc_async"}),
    ],
    ids=["cc70", "cc90_guarded"],
)
def test_the_contract_holds(
    settings: dict[str, int], variables: dict[str, str], tmp_path: Path
) -> None:
    environment = device.environment(tmp_path, **settings) | variables
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/kernels/multi_hot/cuda/test_on_gpu.py", "-k", _QUICK],
        env=environment | {"CUDA_VISIBLE_DEVICES": "0"},
        cwd=device.ROOT, capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
