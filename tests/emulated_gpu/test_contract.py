"""The kernels' own tests, run on the emulated device."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulated_gpu import device


@pytest.mark.parametrize("settings", [{"seed": 1}, {"seed": 2, "cc": 90}], ids=["7.0", "9.0"])
def test_the_kernels_keep_their_contract(settings: dict[str, int], tmp_path: Path) -> None:
    """Blocks, warps and lanes run in another order each time, and every buffer ends at a page that
    must not be touched."""
    environment = device.environment(tmp_path, guard=1, **settings)
    environment |= {"CUDA_VISIBLE_DEVICES": "0", "TF_GPU_ALLOCATOR": "cuda_malloc_async"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/kernels/multi_hot/cuda/test_on_gpu.py"],
        env=environment, cwd=device.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "skipped" not in done.stdout
