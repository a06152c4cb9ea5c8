"""The kernels' own tests, run on the emulated device."""

import secrets
from pathlib import Path

from tests.emulated_gpu import device


def test_the_kernels_keep_their_contract(tmp_path: Path) -> None:
    """Blocks, warps and lanes run in a different order each time, and every buffer ends at a page
    that must not be touched."""
    seed = secrets.randbits(16)
    environment = device.environment(tmp_path, cc=90, seed=seed)
    environment |= {"CUDA_VISIBLE_DEVICES": "0", "TF_GPU_ALLOCATOR": "cuda_malloc_async"}
    done = device.run(environment, "-m", "pytest", "tests/kernels/multi_hot/cuda/test_on_gpu.py")
    assert done.code == 0, f"seed {seed}: " + done.out[-6000:] + done.err[-3000:]
    assert "skipped" not in done.out
