"""Loads the built library and registers its kernels with the XLA of this process."""

from __future__ import annotations

import ctypes
import functools
import threading
from pathlib import Path

import tensorflow as tf

from kernels.multi_hot.native.build import Build, NativeUnavailableError, build

_lock = threading.Lock()


def load() -> Build:
    """Build the kernels if need be, load and register them; once per process, from any thread.

    Raises:
      NativeUnavailableError: they cannot be built here, or this TensorFlow does not take them.
    """
    with _lock:
        return _load()


class _ApiHead(ctypes.Structure):
    """How XLA_FFI_Api begins (xla/ffi/api/c_api.h), up to its version."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("version_struct_size", ctypes.c_size_t),
        ("version_extension_start", ctypes.c_void_p),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    )


def ffi_api_version() -> tuple[int, int]:
    """Return the version, major and minor, of the foreign function interface of this XLA.

    Raises:
      NativeUnavailableError: this TensorFlow has none.
    """
    head = _ApiHead.from_address(_ffi_api())
    return head.major, head.minor


def _ffi_api() -> int:
    """Return the address of XLA's table of functions for foreign kernels."""
    (tensorflow_library,) = _tensorflow_libraries() or (None,)
    if tensorflow_library is None:
        raise NativeUnavailableError(
            f"TensorFlow {tf.__version__} has no libtensorflow_cc in {tf.sysconfig.get_lib()}, "
            "which the native kernels register with: use the implementation 'gather'"
        )
    try:
        get_api = ctypes.CDLL(str(tensorflow_library)).XLA_FFI_GetApi
    except (OSError, AttributeError) as error:
        raise NativeUnavailableError(
            f"TensorFlow {tf.__version__} does not offer XLA's foreign function interface "
            f"({error}): use the implementation 'gather'"
        ) from error
    get_api.restype = ctypes.c_void_p
    return int(get_api())


@functools.cache
def _load() -> Build:
    built = build(Path(tf.sysconfig.get_include()))
    try:
        register = ctypes.CDLL(str(built.path)).multi_hot_register
    except (OSError, AttributeError) as error:
        raise NativeUnavailableError(
            f"the native kernels in {built.path} cannot be loaded ({error}): remove that file, or "
            "use the implementation 'gather'"
        ) from error
    register.argtypes = [ctypes.c_void_p]
    failed = register(_ffi_api())
    if failed:
        raise NativeUnavailableError(
            f"XLA in TensorFlow {tf.__version__} refused native kernel {failed} (its foreign "
            "function interface changed): use the implementation 'gather'"
        )
    return built


def _tensorflow_libraries() -> list[Path]:
    """Return the library that exports XLA_FFI_GetApi; its name ends in the major version."""
    return sorted(Path(tf.sysconfig.get_lib()).glob("libtensorflow_cc.*"))[:1]
