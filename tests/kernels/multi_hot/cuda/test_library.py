"""NVRTC: which code for which GPU, kept once it is compiled, and clear refusals."""

from pathlib import Path

import pytest
import tensorflow as tf

from kernels.cache import CACHE_VARIABLE
from kernels.multi_hot.cuda import library
from kernels.multi_hot.cuda.library import Compiler, image, load_cuda
from kernels.multi_hot.native.build import NativeUnavailableError


@pytest.fixture(scope="module")
def nvrtc() -> Compiler:
    try:
        return library.find_compiler()
    except NativeUnavailableError as error:
        pytest.skip(str(error))


def test_code_for_a_gpu_is_compiled_once(
    nvrtc: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    code = image(nvrtc, (9, 0))
    assert code.startswith(b"\x7fELF")
    (kept,) = tmp_path.glob("*.cubin")
    written = kept.stat().st_mtime_ns
    assert image(nvrtc, (9, 0)) == code
    assert kept.stat().st_mtime_ns == written


def test_a_gpu_that_nvrtc_does_not_know_yet_gets_ptx(nvrtc: Compiler) -> None:
    """The driver compiles it, from that of the nearest capability before."""
    major, minor = nvrtc.capabilities[-1]
    text = nvrtc.compile((99, 0))
    assert f".target sm_{major}{minor}".encode() in text
    assert text.count(b".entry multi_hot_") == 35


def test_a_gpu_that_is_too_old(nvrtc: Compiler) -> None:
    with pytest.raises(
        NativeUnavailableError, match=r"7\.0 and above, and this GPU has 6\.1.*'gather'"
    ):
        nvrtc.compile((6, 1))


@pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="TensorFlow was given a GPU"
)
def test_without_a_gpu() -> None:
    with pytest.raises(NativeUnavailableError, match=r"TensorFlow sees none.*'gather'"):
        load_cuda()


def test_a_library_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"libnvrtc"):
        Compiler(str(tmp_path / "libnvrtc.so"))
