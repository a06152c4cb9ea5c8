"""A CUDA driver, NVRTC and XLA's side of a call, for tests on machines without a GPU.

`libcuda.cc` runs the emulated kernels where the handlers launch CUDA's, and notes every call;
`nvrtc.cc` compiles to a line of text; `frame.cc` calls the handlers as XLA does.
"""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cuda_emulation.emulator import compile_program
from kernels.multi_hot.native.build import require_compiler

SOURCES = Path(__file__).resolve().parent
STREAM = 4242
_DTYPES = {
    "int32": 4,
    "int64": 5,
    "uint16": 7,
    "uint32": 8,
    "float16": 10,
    "float32": 11,
    "bfloat16": 16,
}
"""XLA_FFI_DataType."""


_ATTRIBUTES = {bool: 1, int: 5, float: 11}
"""The same of attributes: floats are of 32 bits."""


class Buffer(ctypes.Structure):
    """XLA_FFI_Buffer."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    )


def build_driver(folder: Path) -> ctypes.CDLL:
    """Build and load `libcuda.so.1`, which whoever asks for that name gets from now on."""
    path = folder / "libcuda.so.1"
    options = ("-O0", "-fPIC", "-shared", f"-Wl,-soname,{path.name}")
    compile_program([str(SOURCES / "libcuda.cc")], path, *options)
    return ctypes.CDLL(str(path))


def build_nvrtc(folder: Path) -> Path:
    """Build a `libnvrtc.so.12`; return its path."""
    path = folder / "libnvrtc.so.12"
    options = ["-std=c++17", "-O1", "-fPIC", "-shared", str(SOURCES / "nvrtc.cc"), "-o"]
    subprocess.run([*require_compiler(), *options, str(path)], check=True)
    return path


class Xla:
    """Calls registered handlers with NumPy arrays as buffers of the device."""

    def __init__(self, folder: Path, include: Path) -> None:
        """Builds it in `folder` with XLA's headers in `include`."""
        path = folder / "frame.so"
        options = ["-std=c++17", "-O1", "-fPIC", "-shared", "-isystem", str(include)]
        command = [*require_compiler(), *options, str(SOURCES / "frame.cc"), "-o", str(path)]
        subprocess.run(command, check=True)
        self._library = ctypes.CDLL(str(path))
        self._library.frame_api.restype = ctypes.c_void_p
        for name in ("frame_platform", "frame_call"):
            getattr(self._library, name).restype = ctypes.c_char_p
        self.api = ctypes.c_void_p(self._library.frame_api())

    def platform(self, target: str) -> str:
        """The platform that a handler is registered for, or an empty string."""
        return str(self._library.frame_platform(target.encode()).decode())

    def traits(self, target: str) -> int:
        """The traits that a handler has."""
        return int(self._library.frame_traits(target.encode()))

    def call(
        self,
        target: str,
        operands: list[np.ndarray],
        results: list[np.ndarray],
        **attributes: bool | int | float,
    ) -> str | None:
        """Call a handler, which fills in the results; return its error."""
        arrays = [*(np.asarray(operand, order="C") for operand in operands), *results]
        buffers = (Buffer * len(arrays))()
        kept: list[Any] = []
        for buffer, array in zip(buffers, arrays, strict=True):
            dims = (ctypes.c_int64 * array.ndim)(*array.shape)
            kept.append(dims)
            buffer.dtype = _DTYPES[array.dtype.name]
            buffer.data = array.ctypes.data
            buffer.rank = array.ndim
            buffer.dims = dims
        count, given = len(attributes), sorted(attributes.items())
        error = self._library.frame_call(
            target.encode(), ctypes.c_void_p(STREAM), len(operands), len(results), buffers, count,
            (ctypes.c_char_p * count)(*(name.encode() for name, _ in given)),
            (ctypes.c_int64 * count)(*(_bits_of(value) for _, value in given)),
            (ctypes.c_int * count)(*(_ATTRIBUTES[type(value)] for _, value in given)),
        )  # fmt: skip
        return None if error is None else str(error.decode())


def _bits_of(value: float) -> int:
    """Return a number of which a float's 32 bits are the lower ones."""
    return int(np.float32(value).view(np.uint32)) if isinstance(value, float) else value


def read_log(path: Path) -> list[str]:
    """Return the lines of a log since the last time."""
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines
