"""The native kernels: what they are built with, and whether they compute the right thing."""

import subprocess
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from harness.commands.doctor.finding import Finding
from kernels.multi_hot import multi_hot_dense
from kernels.multi_hot.native.build import (
    NativeUnavailableError,
    cache_folder,
    require_compiler,
)
from kernels.multi_hot.native.library import ffi_api_version, load


def kernels() -> Iterator[Finding]:
    """The compiler, the kernels' cache, the interface to XLA, and whether the kernels are right."""
    try:
        compiler = require_compiler()
        version = subprocess.run(
            [*compiler, "--version"], capture_output=True, text=True, check=False
        ).stdout.splitlines()
        yield Finding(
            subject="C++ compiler", state="ok", text=f"{' '.join(compiler)}: {version[0]}"
        )
        yield Finding(subject="kernel cache", state="ok", text=str(cache_folder()))
        major, minor = ffi_api_version()
        yield Finding(subject="XLA FFI API", state="ok", text=f"version {major}.{minor}")
        built = load()
    except NativeUnavailableError as error:
        yield Finding(subject="native kernels", part="native", state="limited", text=str(error))
        return
    when = f"built in {built.compile_seconds:.1f} s" if built.compile_seconds else "built before"
    table = tf.constant(np.arange(20, dtype=np.float32).reshape(10, 2))
    # Row 0 holds ids 1 and 9, one of them twice; row 1 none.
    got = multi_hot_dense(
        table, tf.constant([9, 1, 9]), tf.constant([0, 3, 3]), implementation="native"
    )
    if got.numpy().tolist() == [[20.0, 22.0], [0.0, 0.0]]:
        yield Finding(
            subject="native kernels", part="native", state="ok", text=f"{when}: {built.path}"
        )
    else:
        text = f"{built.path} gives wrong sums ({got.numpy().tolist()}): remove it and run again"
        yield Finding(subject="native kernels", part="native", state="broken", text=text)
