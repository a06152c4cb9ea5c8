"""Loads the built library and registers its kernels with the XLA of this process."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import tensorflow as tf

from kernels.files import reached_by
from kernels.multi_hot.native.build import SOURCES, NativeUnavailableError, build


def load(sources: Path = SOURCES) -> Path:
    """Build the kernels if necessary, load and register them; return the library's path."""
    return registered(sources)[0]


@functools.cache
def registered(sources: Path) -> tuple[Path, ctypes.CDLL]:
    """Build a library if necessary, load it and register its kernels; return its path and it."""
    built = build(Path(tf.sysconfig.get_include()), sources)
    try:
        # Load the checked file, whatever its name leads to by now. The descriptor stays open,
        # because the loader knows the library by this number, and would take another file of that
        # number for it.
        library = ctypes.CDLL(str(reached_by(built.descriptor)))
    except OSError as error:
        raise NativeUnavailableError(
            f"the native kernels in {built.path} cannot be loaded ({error}): remove that file, "
            "or use the implementation 'gather'"
        ) from error
    register = library.multi_hot_register
    register.argtypes, register.restype = [ctypes.c_void_p], ctypes.c_bool
    if not register(_ffi_api()):
        raise NativeUnavailableError(
            f"XLA in TensorFlow {tf.__version__} refused the kernels in {built.path} (its foreign "
            "function interface changed): use the implementation 'gather'"
        )
    return built.path, library


def _ffi_api() -> int:
    try:
        # The library's file name ends in the major version.
        (path,) = sorted(Path(tf.sysconfig.get_lib()).glob("libtensorflow_cc.*"))[:1]
        get_api = ctypes.CDLL(str(path)).XLA_FFI_GetApi
    except (OSError, ValueError, AttributeError) as error:
        raise NativeUnavailableError(
            f"TensorFlow {tf.__version__} in {tf.sysconfig.get_lib()} does not offer XLA's foreign "
            f"function interface ({error}): use the implementation 'gather'"
        ) from error
    get_api.restype = ctypes.c_void_p
    return int(get_api())
