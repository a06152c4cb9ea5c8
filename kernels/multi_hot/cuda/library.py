"""The CUDA kernels: compiled with NVRTC, which comes with TensorFlow's CUDA packages, kept,
loaded, and registered with the XLA of this process.

Compiling needs neither a GPU nor a driver.
"""

import ctypes
import functools
import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from kernels.multi_hot.native.build import DIGEST_BYTES, REMEDY, kept, load
from kernels.multi_hot.registry import UnavailableError

SOURCES = Path(__file__).resolve().parent
_RULES = SOURCES.parent / "native" / "rules.h"  # which the C++ kernels share
_FLAGS = ("--std=c++17",)
_NAMES = ("libnvrtc.so.12", "libnvrtc.so.13")


@functools.cache
def find_compiler() -> ctypes.CDLL:
    """Return NVRTC: an installed package's, else the system's."""
    tried = []
    for path in (*packaged("cuda_nvrtc", "libnvrtc.so.*"), *_NAMES):
        try:
            return ctypes.CDLL(path)
        except OSError as error:
            tried.append(str(error))
    raise UnavailableError(
        f"the CUDA kernels need NVRTC, which cannot be loaded ({tried[0]}): install it "
        f"(pip install 'tensorflow[and-cuda]', or nvidia-cuda-nvrtc-cu12), {REMEDY}"
    )


def packaged(package: str, pattern: str) -> list[str]:
    """Return the paths of libraries of one of NVIDIA's packages."""
    try:
        found = importlib.util.find_spec(f"nvidia.{package}")
    except ModuleNotFoundError:  # no package of NVIDIA's at all
        found = None
    folders = [] if found is None else list(found.submodule_search_locations or [])
    return sorted(str(path) for folder in folders for path in Path(folder).glob(f"lib/{pattern}"))


def _call(name: str, *arguments: Any) -> None:
    if status := getattr(find_compiler(), name)(*arguments):
        raise OSError(f"{name} of NVRTC failed with error {status}")


def _text(program: ctypes.c_void_p, function: str) -> bytes:
    size = ctypes.c_size_t()
    _call(f"{function}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    _call(function, program, buffer)
    return buffer.raw


def _version() -> str:
    numbers = (ctypes.c_int(), ctypes.c_int())
    _call("nvrtcVersion", *map(ctypes.byref, numbers))
    return f"{numbers[0].value}.{numbers[1].value}"


def _sources() -> dict[str, bytes]:
    """Return the kernels' files, by the names under which they include one another."""
    files = sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cu")])
    named = {"../native/rules.h": _RULES} | {file.name: file for file in files}
    return {name: file.read_bytes() for name, file in named.items()}


def _compile(architecture: str, sources: dict[str, bytes]) -> bytes:
    """Return the kernels as machine code."""
    count = len(sources)
    program = ctypes.c_void_p()
    _call(
        "nvrtcCreateProgram", ctypes.byref(program), sources["kernels.cu"], b"kernels.cu", count,
        (ctypes.c_char_p * count)(*sources.values()),
        (ctypes.c_char_p * count)(*map(str.encode, sources)),
    )  # fmt: skip
    try:
        flags = [f"--gpu-architecture={architecture}", *_FLAGS]
        given = (ctypes.c_char_p * len(flags))(*map(str.encode, flags))
        if find_compiler().nvrtcCompileProgram(program, len(flags), given) != 0:
            log = _text(program, "nvrtcGetProgramLog").decode(errors="replace")
            tail = "\n".join(log.rstrip("\0\n").splitlines()[-15:])
            raise UnavailableError(
                f"NVRTC {_version()} could not compile the CUDA kernels for {architecture}:"
                f"\n{tail}\ninstall another version of it, {REMEDY}"
            )
        return _text(program, "nvrtcGetCUBIN")
    finally:
        _call("nvrtcDestroyProgram", ctypes.byref(program))


def image(capability: tuple[int, int]) -> tuple[str, bytes]:
    """Return the name and content of the kernels for a compute capability, from the cache or else
    compiled now."""
    architecture, sources = "sm_{}{}".format(*capability), _sources()
    parts = [*sources.values(), *map(str.encode, (*sources, _version(), *_FLAGS, architecture))]
    name = f"multi_hot-{hashlib.sha256(bytes(1).join(parts)).hexdigest()[:24]}.cubin"
    with open(kept(name, lambda: _compile(architecture, sources)).descriptor, "rb") as file:
        file.seek(0)  # the check has read the file
        return name, file.read()[:-DIGEST_BYTES]


@functools.cache
def offer_cuda() -> None:
    """Load the kernels if TensorFlow sees a GPU, before XLA compiles a program that may need them.

    A program for the CPU needs none of them. So if they cannot be loaded, a note on standard error
    says why, and XLA refuses only programs for a GPU.
    """
    if not tf.config.get_visible_devices("GPU"):
        return
    try:
        load_cuda()
    except UnavailableError as error:
        print(f"note: native has no kernels for a GPU here: {error}", file=sys.stderr)


@functools.cache
def load_cuda() -> str:
    """Compile the kernels for the GPUs that TensorFlow sees if necessary, load and register them;
    return an identifier of the builds."""
    details = map(tf.config.experimental.get_device_details, tf.config.get_visible_devices("GPU"))
    capabilities = sorted({detail["compute_capability"] for detail in details})
    if not capabilities:
        raise UnavailableError(
            f"the CUDA kernels need a GPU, and TensorFlow sees none: make it visible, {REMEDY}"
        )
    images = [image(own) for own in capabilities]
    path, library = load(SOURCES)
    for _, code in images:
        library.multi_hot_cuda_add(code, ctypes.c_size_t(len(code)))
    return ", ".join([path.name, *(name for name, _ in images)])
