"""Loads the CUDA kernels and registers them with the XLA of this process."""

from __future__ import annotations

import ctypes
import functools
import sys

import tensorflow as tf

from kernels.multi_hot.cuda import compiler
from kernels.multi_hot.native.build import (
    DIGEST_BYTES,
    REMEDY,
    Library,
    NativeUnavailableError,
    kept,
)
from kernels.multi_hot.native.library import registered


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
    return an identifier of the builds.

    Raises:
      NativeUnavailableError: if there is no GPU, or the kernels cannot be built or loaded for one.
    """
    details = map(tf.config.experimental.get_device_details, tf.config.get_visible_devices("GPU"))
    capabilities = sorted({detail["compute_capability"] for detail in details})
    if not capabilities:
        raise NativeUnavailableError(
            f"the CUDA kernels need a GPU, and TensorFlow sees none: make it visible, {REMEDY}"
        )
    nvrtc = compiler.find_compiler()
    images = [image(nvrtc, own) for own in capabilities]
    path, library = registered(compiler.SOURCES)
    for code in images:
        library.multi_hot_cuda_add(code, ctypes.c_size_t(len(code)))
    keys = [compiler.key(nvrtc, own) for own in capabilities]
    return ", ".join([path.name, *keys])


def image(nvrtc: compiler.Compiler, capability: tuple[int, int]) -> bytes:
    """Return the kernels for a compute capability, from the cache or else compiled now.

    Raises:
      NativeUnavailableError: if they cannot be compiled or kept.
    """
    name = f"multi_hot-{compiler.key(nvrtc, capability)}.cubin"
    found: Library = kept(name, lambda _: nvrtc.compile(capability))
    with open(found.descriptor, "rb") as file:
        file.seek(0)  # the check has read the file
        return file.read()[:-DIGEST_BYTES]
