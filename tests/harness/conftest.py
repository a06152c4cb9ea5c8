"""The fixtures of the harness's tests: an NVML library that answers from a script."""

from pathlib import Path

import pytest

from tests.emulated_gpu.nvml import Nvml, build


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the path of the compiled library; skips the test if there is no compiler."""
    return build(tmp_path_factory.mktemp("nvml")) or pytest.skip("needs g++, to build NVML")


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path) -> Nvml:
    """Returns the library for processes that the test starts, with a script that has no GPU
    yet."""
    return Nvml(nvml_library, tmp_path)
