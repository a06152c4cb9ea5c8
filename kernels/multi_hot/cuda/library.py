"""The CUDA kernels: compiled with NVRTC, which comes with TensorFlow's CUDA packages, kept,
loaded, and registered with the XLA of this process.

Compiling needs neither a GPU nor a driver.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from kernels.multi_hot.native.build import (
    DIGEST_BYTES,
    REMEDY,
    Library,
    NativeUnavailableError,
    kept,
)
from kernels.multi_hot.native.library import registered

SOURCES = Path(__file__).resolve().parent
RULES = SOURCES.parent / "native" / "rules.h"
"""The rules of the optimizers of touched rows, which the C++ kernels share."""
_FLAGS = ("--std=c++17",)
# First compute capability with the instructions that the kernels use.
_LEAST = (7, 0)
_NAMES = ("libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so")


class Compiler:
    def __init__(self, path: str) -> None:
        """Load a library; raise OSError if it cannot be loaded."""
        self._library = ctypes.CDLL(path)
        numbers = (ctypes.c_int(), ctypes.c_int())
        self._call("nvrtcVersion", *map(ctypes.byref, numbers))
        self.version = f"{numbers[0].value}.{numbers[1].value}"
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", known)
        # Compute capabilities that the library compiles for, ascending.
        self.capabilities = sorted(divmod(number, 10) for number in known)

    def compile(self, capability: tuple[int, int]) -> bytes:
        """Return the kernels for a compute capability as machine code, or, if NVRTC does not know
        it yet, as PTX, which the driver translates."""
        own = "this GPU has {}.{}".format(*capability)
        if capability < _LEAST:
            raise NativeUnavailableError(
                "the CUDA kernels need compute capability {}.{} and above, and ".format(*_LEAST)
                + f"{own}: {REMEDY.removeprefix('or ')}"
            )
        known = [known for known in self.capabilities if known <= capability]
        if not known:
            raise NativeUnavailableError(
                f"NVRTC {self.version} compiles for compute capability "
                "{}.{} and above, and ".format(*self.capabilities[0])
                + f"{own}: install an older NVRTC, {REMEDY}"
            )
        as_text = known[-1] != capability
        architecture = f"{'compute' if as_text else 'sm'}_{known[-1][0]}{known[-1][1]}"
        headers = {header.name: header for header in sorted(SOURCES.glob("*.h"))}
        headers["../native/rules.h"] = RULES
        count = len(headers)
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram", ctypes.byref(program), (SOURCES / "kernels.cu").read_bytes(),
            b"kernels.cu", count,
            (ctypes.c_char_p * count)(*(header.read_bytes() for header in headers.values())),
            (ctypes.c_char_p * count)(*(name.encode() for name in headers)),
        )  # fmt: skip
        try:
            flags = [f"--gpu-architecture={architecture}", *_FLAGS]
            given = (ctypes.c_char_p * len(flags))(*map(str.encode, flags))
            if self._library.nvrtcCompileProgram(program, len(flags), given) != 0:
                log = self._text(program, "nvrtcGetProgramLog").decode(errors="replace")
                tail = "\n".join(log.rstrip("\0\n").splitlines()[-15:])
                raise NativeUnavailableError(
                    f"NVRTC {self.version} could not compile the CUDA kernels for {architecture}:"
                    f"\n{tail}\ninstall another version of it, {REMEDY}"
                )
            return self._text(program, "nvrtcGetPTX" if as_text else "nvrtcGetCUBIN")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, function: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"{function}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(function, program, buffer)
        return buffer.raw

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            function: Callable[..., int] = getattr(self._library, name)
        except AttributeError as error:
            raise OSError(f"NVRTC has no {name}: it is too old") from error
        if status := function(*arguments):
            raise OSError(f"{name} of NVRTC failed with error {status}")


@functools.cache
def find_compiler() -> Compiler:
    """Return NVRTC: an installed package's, else the system's."""
    tried = []
    for path in (*packaged("cuda_nvrtc", "libnvrtc.so.*"), *_NAMES):
        try:
            return Compiler(path)
        except OSError as error:
            tried.append(str(error))
    raise NativeUnavailableError(
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


def key(compiler: Compiler, capability: tuple[int, int]) -> str:
    """Return a key of a build; equal keys mean that the compiler would make the same code."""
    files = [RULES, *sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cu")])]
    texts = [text for file in files for text in (file.name, file.read_text())]
    parts = [*texts, compiler.version, *_FLAGS, *map(str, capability)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


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
    except NativeUnavailableError as error:
        print(f"note: native has no kernels for a GPU here: {error}", file=sys.stderr)


@functools.cache
def load_cuda() -> str:
    """Compile the kernels for the GPUs that TensorFlow sees if necessary, load and register them;
    return an identifier of the builds."""
    details = map(tf.config.experimental.get_device_details, tf.config.get_visible_devices("GPU"))
    capabilities = sorted({detail["compute_capability"] for detail in details})
    if not capabilities:
        raise NativeUnavailableError(
            f"the CUDA kernels need a GPU, and TensorFlow sees none: make it visible, {REMEDY}"
        )
    nvrtc = find_compiler()
    images = [image(nvrtc, own) for own in capabilities]
    path, library = registered(SOURCES)
    for code in images:
        library.multi_hot_cuda_add(code, ctypes.c_size_t(len(code)))
    keys = [key(nvrtc, own) for own in capabilities]
    return ", ".join([path.name, *keys])


def image(nvrtc: Compiler, capability: tuple[int, int]) -> bytes:
    """Return the kernels for a compute capability, from the cache or else compiled now."""
    name = f"multi_hot-{key(nvrtc, capability)}.cubin"
    found: Library = kept(name, lambda _: nvrtc.compile(capability))
    with open(found.descriptor, "rb") as file:
        file.seek(0)  # the check has read the file
        return file.read()[:-DIGEST_BYTES]
