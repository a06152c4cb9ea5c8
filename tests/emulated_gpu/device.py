"""Builds the emulated device, and makes environments of processes that compute on it."""

import ctypes.util
import fcntl
import functools
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import SkipTest  # which pytest takes as its own, and needs no pytest

import kernels.cache
from tests.emulated_gpu import nvml
from tests.harness.cli import runs

SOURCES = Path(__file__).resolve().parent
_LIBRARIES = (
    "libcuda.so.1", "libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12", "libcudnn.so.9",
    "libcufft.so.11", "libcusolver.so.11", "libcusparse.so.12", "libnccl.so.2", "libnvidia-ml.so.1",
)  # fmt: skip
_FLAGS = ("-std=c++17", "-O2", "-march=x86-64-v3", "-fPIC", "-shared", "-pthread", "-Wl,-Bsymbolic")
# Contraction and reassociation would change the kernels' rounding.
_KERNEL_FLAGS = (
    "-std=gnu11 -O1 -march=x86-64-v3 -ffp-contract=off -fno-strict-aliasing"
    " -fwrapv -w -shared -fPIC"
)
# A script in place of the assembler, which returns the text as machine code.
_ASSEMBLER = """#!/bin/sh -e
[ "$1" = --version ] && echo "Cuda compilation tools, release 12.9, V12.9.86" && exit
cat "$1" > "$3"
printf '\\0' >> "$3"
"""
_TRANSLATE = """#!/bin/sh
unset LD_LIBRARY_PATH LD_PRELOAD
here=$(dirname "$0")
{python} -S -E "$here/ptx.py" "$2" < "$1.ptx" > "$1.c" &&
gcc {flags} $EMULATED_GPU_FLAGS -I"$here" "$1.c" -o "$1.so" -lm "$here/lib/libcuda.so.1" &&
rm "$1.c"
"""


def _package(name: str) -> Path:
    """The folder of one of NVIDIA's packages."""
    package = f"nvidia-{name.replace('_', '-')}-cu12"
    try:
        module = importlib.import_module(f"nvidia.{name}")
    except ModuleNotFoundError as error:
        raise SkipTest(f"the emulated GPU needs {package}: ./scripts/test installs it") from error
    return Path(next(iter(module.__path__)))


@functools.cache
def build() -> Path:
    """Return the folder of the device, which is built unless the cache has it. Skip the test when
    something is missing that the build needs."""
    if shutil.which("g++") is None:
        raise SkipTest("the emulated GPU needs g++")
    if ctypes.util.find_library("lz4") is None:
        raise SkipTest("the emulated GPU needs liblz4.so.1")
    if "f16c" not in Path("/proc/cpuinfo").read_text():
        raise SkipTest("the emulated GPU needs a CPU of x86-64-v3")
    nvrtc, nvcc = _package("cuda_nvrtc") / "lib", _package("cuda_nvcc")
    sources = sorted([*SOURCES.glob("*.[chl]*"), SOURCES / "ptx.py", Path(__file__)])
    texts = [str(nvrtc).encode(), *(file.read_bytes() for file in sources)]
    key = hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]
    cache = kernels.cache.opened()
    folder = cache / f"emulated_gpu-{key}"
    with (
        (cache / "emulated_gpu.lock").open("w") as lock,
        tempfile.TemporaryDirectory(dir=cache) as beside,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes of pytest-xdist begin at once
        if not folder.is_dir():
            _build_in(Path(beside) / "built", nvrtc, nvcc)
            os.rename(Path(beside) / "built", folder)
    return folder


def _build_in(folder: Path, nvrtc: Path, nvcc: Path) -> None:
    for made in ("lib", "cuda/bin", "cuda/nvvm", "kernels", "python/nvidia/cuda_nvrtc/lib"):
        (folder / made).mkdir(parents=True)
    lib, tools, package = folder / "lib", folder / "cuda", folder / "python/nvidia"
    include = "tensorflow/include/third_party/gpus/cuda/include"
    headers = importlib.metadata.distribution("tensorflow").locate_file(include)
    sources = [*SOURCES.glob("*.cc"), SOURCES / "names.ld", next(nvrtc.glob("libnvrtc.so.*"))]
    flags = [*_FLAGS, "-isystem", headers, "-l:liblz4.so.1", "-ldl", f"-Wl,-rpath,{nvrtc}"]
    command = ["g++", *sources, *flags, "-o", lib / _LIBRARIES[0]]
    subprocess.run(list(map(str, command)), check=True)
    for name in _LIBRARIES[1:]:
        (lib / name).symlink_to(_LIBRARIES[0])
    for file in nvrtc.glob("libnvrtc-builtins.so*"):  # which a sanitizer's dlopen looks for here
        (lib / file.name).symlink_to(file)
    # This package comes before NVIDIA's, where the product looks for NVRTC.
    (package / "__init__.py").touch()
    (package / "cuda_nvrtc/lib/libnvrtc.so.12").symlink_to("../../../../lib/libcuda.so.1")
    (tools / "nvvm" / "libdevice").symlink_to(nvcc / "nvvm" / "libdevice")
    for name in ("ptx.py", "kernel.h"):
        shutil.copy(SOURCES / name, folder)
    translate = _TRANSLATE.format(python=sys.executable, flags=_KERNEL_FLAGS)
    for script, text in (
        (tools / "bin" / "ptxas", _ASSEMBLER),
        (tools / "bin" / "nvlink", _ASSEMBLER),
        (folder / "translate", translate),
    ):
        script.write_text(text)
        script.chmod(0o755)


def environment(
    folder: Path, *script: str, devices: int | str = 1, **settings: object
) -> dict[str, str]:
    """Return the environment of a process that computes on emulated devices.

    Args:
        folder: a folder for the process's files.
        script: more lines for NVML; see nvml.py.
        devices: the number of devices.
        settings: settings of the device: `cc` (its compute capability, as 90), `cc_1` (that of
            number 1), `seed`, `flags` (further ones for the kernels' compiler), `refuses` (modules
            with this text in them), `lost` (a path: number 1 does nothing once it exists), `trace`
            (a file that gets a line for every launch, copy, allocation and wait).
    """
    built = build()
    lines = nvml.system()
    for number in range(int(devices)):
        capability = str(settings.get(f"cc_{number}", settings.get("cc", 70)))
        lines += nvml.modern(number, compute_capability=f"{capability[:-1]}.{capability[-1]}")
    (folder / "nvml-script").write_text("\n".join([*lines, *script]) + "\n")
    settings["devices"] = devices
    paths = [
        str(built / "python"),
        str(runs.REPOSITORY),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA_", "XLA_FLAGS", "TF_"))}
    return {
        **kept,
        **{f"EMULATED_GPU_{name.upper()}": str(value) for name, value in settings.items()},
        "EMULATED_GPU_FOLDER": str(built),
        "FAKE_NVML_SCRIPT": str(folder / "nvml-script"),
        "LD_LIBRARY_PATH": str(built / "lib"),
        "PATH": f"{built / 'cuda' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(paths),
        "XLA_FLAGS": f"--xla_gpu_cuda_data_dir={built / 'cuda'} --xla_gpu_autotune_level=0"
        " --xla_gpu_enable_libnvptxcompiler=false --xla_gpu_enable_triton_gemm=false",
    }


def run(environment: dict[str, str], *arguments: str) -> runs.Result:
    """Run Python in an environment."""
    return runs.run([sys.executable, *arguments], env=environment, timeout=1200)
