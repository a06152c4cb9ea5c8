"""The fixtures of the harness's tests: an NVML library that answers from a script."""

from pathlib import Path

import pytest

from tests.emulated_gpu import device
from tests.emulated_gpu.nvml import Nvml


@pytest.fixture
def nvml(tmp_path: Path) -> Nvml:
    """Returns the library for processes that the test starts, with a script that has no GPU
    yet."""
    return Nvml(device.build(), tmp_path)
