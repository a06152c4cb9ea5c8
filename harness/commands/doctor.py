"""`harness doctor`: what this machine can do for a run, each line with OK or the remedy."""

import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from harness.config import PRECISIONS, DoctorConfig
from harness.engine.devices import Devices, set_up_devices
from harness.model.precision import choose_precision
from kernels.multi_hot import multi_hot_dense
from kernels.multi_hot.native.build import (
    NativeUnavailableError,
    cache_folder,
    require_compiler,
)
from kernels.multi_hot.native.library import ffi_api_version, load

_PYTHON = ((3, 11), (3, 14))
"""From the first on, below the second: pyproject.toml's range."""
_TESTED = {"TensorFlow": "2.21", "Keras": "3.15"}
"""pyproject.toml's ranges: versions that begin so."""
_SHOWN_AS = {"ok": "OK", "limited": "limited", "broken": "BROKEN"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    subject: str
    state: Literal["ok", "limited", "broken"]
    """`limited`: runs work, but something that could be had is missing."""
    text: str
    """What was found, and the remedy where it is not all well."""


def doctor(config: DoctorConfig, console: Console | None = None) -> int:
    """Runs the command; returns 1 when something is broken, else 0."""
    del config  # it has no settings yet; the command line hands one to every command
    console = console or Console()
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")  # a path that is cut short is of no use
    findings = list(examine())
    for finding in findings:
        table.add_row(finding.subject, _SHOWN_AS[finding.state], finding.text)
    console.print(table)
    return 1 if any(finding.state == "broken" for finding in findings) else 0


def examine() -> Iterator[Finding]:
    """All findings, in the order in which they depend on one another."""
    yield _python()
    yield _version("TensorFlow", tf.__version__)
    yield _version("Keras", keras.__version__)
    yield _keras_backend()
    devices = set_up_devices("auto")
    yield Finding(subject="devices", state="ok", text=", ".join(devices.descriptions))
    yield _xla(devices)
    for precision in PRECISIONS:
        yield _precision(precision, devices)
    chosen = choose_precision(
        "auto",
        device_type=devices.device_type,
        compute_capability=devices.compute_capability,
    )
    yield Finding(subject="precision auto", state="ok", text=f"takes {chosen.name}: {chosen.why}")
    yield from _native()


def _python() -> Finding:
    least, below = (".".join(map(str, version)) for version in _PYTHON)
    if _PYTHON[0] <= sys.version_info[:2] < _PYTHON[1]:
        return Finding(subject="Python", state="ok", text=platform.python_version())
    text = f"{platform.python_version()}: install one from {least} on, below {below}"
    return Finding(subject="Python", state="broken", text=text)


def _version(package: str, version: str) -> Finding:
    tested = _TESTED[package]
    if version.startswith(f"{tested}."):
        return Finding(subject=package, state="ok", text=version)
    text = f"{version}: tested is {tested}; remove .venv, and ./scripts/harness makes it anew"
    return Finding(subject=package, state="limited", text=text)


def _keras_backend() -> Finding:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return Finding(subject="Keras backend", state="ok", text=backend)
    text = f"{backend}: set KERAS_BACKEND=tensorflow, or correct ~/.keras/keras.json"
    return Finding(subject="Keras backend", state="broken", text=text)


def _compiled_product(device: str, dtype: str) -> float:
    """The largest error of a small product in `dtype`, compiled by XLA on `device`."""
    rng = np.random.default_rng(0)
    left, right = rng.random((8, 16)), rng.random((16, 4))

    @tf.function(jit_compile=True, autograph=False)
    def product(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.cast(a, dtype) @ tf.cast(b, dtype), tf.float32)

    with tf.device(device):
        got = product(tf.constant(left, tf.float32), tf.constant(right, tf.float32))
    return float(np.abs(got.numpy() - left @ right).max())


def _xla(devices: Devices) -> Finding:
    try:
        for device in devices.names:
            _compiled_product(device, "float32")
    except tf.errors.OpError as error:
        text = f"does not compile for {device}: {error.message.splitlines()[0]}; install the "
        return Finding(
            subject="XLA", state="broken", text=text + "TensorFlow that pyproject.toml names"
        )
    return Finding(subject="XLA", state="ok", text=f"compiles for {', '.join(devices.names)}")


def _precision(precision: str, devices: Devices) -> Finding:
    dtype = precision.removeprefix("mixed_")
    try:
        error = _compiled_product(devices.names[0], dtype)
    except tf.errors.OpError as failure:
        text = f"not on {devices.names[0]}: {failure.message.splitlines()[0]}; use another"
        return Finding(subject=precision, state="limited", text=text)
    text = f"works on {devices.names[0]}; sums of 16 products err by {error:.0e}"
    return Finding(subject=precision, state="ok", text=text)


def _native() -> Iterator[Finding]:
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
        yield Finding(subject="native kernels", state="limited", text=str(error))
        return
    when = f"built in {built.compile_seconds:.1f} s" if built.compile_seconds else "built before"
    table = tf.constant(np.arange(20, dtype=np.float32).reshape(10, 2))
    # Row 0 holds ids 1 and 9, one of them twice; row 1 none.
    got = multi_hot_dense(
        table, tf.constant([9, 1, 9]), tf.constant([0, 3, 3]), implementation="native"
    )
    if got.numpy().tolist() == [[20.0, 22.0], [0.0, 0.0]]:
        yield Finding(subject="native kernels", state="ok", text=f"{when}: {built.path}")
    else:
        text = f"{built.path} gives wrong sums ({got.numpy().tolist()}): remove it and run again"
        yield Finding(subject="native kernels", state="broken", text=text)
