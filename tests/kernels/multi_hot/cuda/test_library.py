"""NVRTC: code that is kept once it is compiled, and clear refusals."""

from pathlib import Path

import pytest
import tensorflow as tf

from kernels.cache import CACHE_VARIABLE
from kernels.multi_hot.cuda.library import find_compiler, image, load_cuda
from kernels.multi_hot.registry import UnavailableError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def _nvrtc() -> None:
    try:
        find_compiler()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("_nvrtc")
def test_code_for_a_gpu_is_compiled_once(cache: Path) -> None:
    name, code = image((9, 0))
    assert code.startswith(b"\x7fELF")
    (kept,) = cache.glob("*.cubin")
    assert kept.name == name
    written = kept.stat().st_mtime_ns
    assert image((9, 0)) == (name, code)
    assert kept.stat().st_mtime_ns == written


@pytest.mark.usefixtures("_nvrtc")
@pytest.mark.parametrize("capability", [(6, 1), (99, 0)])
def test_a_gpu_that_is_too_old_or_too_new_for_nvrtc(capability: tuple[int, int]) -> None:
    match = r"(?s)could not compile .* for sm_{}{}:\n.*error.*\ninstall another.*'gather'"
    with pytest.raises(UnavailableError, match=match.format(*capability)):
        image(capability)


@pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="TensorFlow was given a GPU"
)
def test_without_a_gpu() -> None:
    with pytest.raises(UnavailableError, match=r"TensorFlow sees none.*'gather'"):
        load_cuda()
