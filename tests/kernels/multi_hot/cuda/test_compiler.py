"""NVRTC, or what stands for it: which code for which GPU, once for each, and clear refusals."""

from pathlib import Path

import pytest
import tensorflow as tf

from kernels.cache import CACHE_VARIABLE
from kernels.multi_hot.cuda import compiler
from kernels.multi_hot.cuda.compiler import Compiler
from kernels.multi_hot.cuda.library import image, load_cuda
from kernels.multi_hot.native.build import NativeUnavailableError, find_compiler
from tests.kernels.multi_hot.cuda.driver.library import build_nvrtc, read_log

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvrtc(tmp_path_factory.mktemp("nvrtc"))


@needs_compiler
def test_code_for_each_gpu_is_compiled_once(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_NVRTC_LOG", str(log))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    nvrtc = Compiler(str(path))
    assert nvrtc.capabilities == [(7, 0), (8, 0), (9, 0)]
    code = image(nvrtc, (9, 0))
    assert code.startswith(b"--gpu-architecture=sm_90 ")
    assert image(nvrtc, (9, 0)) == code
    assert read_log(log) == ["--gpu-architecture=sm_90"]
    (kept,) = (tmp_path / "cache").glob("*.cubin")
    kept.write_bytes(kept.read_bytes()[:-1])
    assert image(nvrtc, (9, 0)) == code, "the file was damaged"
    # What NVRTC does not know yet, the driver compiles from PTX of the nearest before.
    assert image(nvrtc, (12, 0)).startswith(b"--gpu-architecture=compute_90 ")
    assert image(nvrtc, (8, 6)).startswith(b"--gpu-architecture=compute_80 ")
    assert len(read_log(log)) == 3
    with pytest.raises(NativeUnavailableError, match=r"7\.0 and above, and this GPU has 6\.1"):
        image(nvrtc, (6, 1))
    monkeypatch.setenv("FAKE_NVRTC_FAILS", "1")
    with pytest.raises(NativeUnavailableError, match=r"error: refused\n.*'gather'"):
        image(nvrtc, (7, 0))


@pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="TensorFlow was given a GPU"
)
def test_without_a_gpu() -> None:
    with pytest.raises(NativeUnavailableError, match=r"TensorFlow sees none.*'gather'"):
        load_cuda()


def test_a_library_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"libnvrtc"):
        Compiler(str(tmp_path / "libnvrtc.so"))


def test_the_real_nvrtc_compiles_the_kernels() -> None:
    """Where there is one. Text is faster to make than code."""
    try:
        nvrtc = compiler.find_compiler()
    except NativeUnavailableError:
        pytest.skip("no NVRTC is installed")
    text = nvrtc.compile(nvrtc.capabilities[0], as_text=True)
    assert text.count(b".entry multi_hot_") == 50
