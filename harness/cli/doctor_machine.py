"""What the doctor finds: software, devices, kernels, TensorBoard, data sets and disks."""

import contextlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from harness.cli.doctor import Finding
from harness.cli.doctor_gpus import gpus
from harness.data.imdb import cached_file
from harness.engine.devices import Devices, set_up_devices
from harness.environment import hide_too_new_gpus
from harness.errors import as_command
from harness.model.precision import choose_precision
from harness.observe.host import installed_version
from harness.observe.trace import INSTALL
from harness.settings import PRECISIONS
from kernels.multi_hot import multi_hot_dense
from kernels.multi_hot.native.build import NativeUnavailableError, cache_folder, require_compiler
from kernels.multi_hot.native.library import ffi_api_version, load

_LEAST_FREE_BYTES = 10**9
"""A run of the tutorial's size writes 20 MB; a profile or a wide network some hundred MB."""


def examine() -> Iterator[Finding]:
    """All findings, in the order in which they depend on one another."""
    yield from _software()
    hide_too_new_gpus()
    devices = set_up_devices(len(tf.config.get_visible_devices("GPU")) or 1)
    yield from gpus(devices)
    yield from _computing(devices)
    yield from _kernels()
    yield from _tensorboard()
    yield _dataset()
    yield from _disks()


def _software() -> Iterator[Finding]:
    """Whether Python, its packages and Keras's backend are in pyproject.toml's ranges."""
    python = platform.python_version()
    if (3, 11) <= sys.version_info < (3, 14):
        yield Finding("Python", "ok", python)
    else:
        yield Finding("Python", "broken", f"{python}: install one from 3.11 on, below 3.14")
    for package, found, tested in (
        ("TensorFlow", tf.__version__, "2.21"),
        ("Keras", keras.__version__, "3.15"),
    ):
        if found.startswith(f"{tested}."):
            yield Finding(package, "ok", found)
        else:
            remedy = "remove .venv, and ./scripts/harness makes it anew"
            yield Finding(package, "limited", f"{found}: tested is {tested}; {remedy}")
    backend = keras.backend.backend()
    if backend == "tensorflow":
        yield Finding("Keras backend", "ok", backend)
    else:
        text = f"{backend}: set KERAS_BACKEND=tensorflow, or correct ~/.keras/keras.json"
        yield Finding("Keras backend", "broken", text)


def _computing(devices: Devices) -> Iterator[Finding]:
    """Whether XLA compiles for each device, and the first one computes in each precision."""
    yield Finding("devices", "ok", ", ".join(devices.descriptions))
    device = devices.names[0]
    try:
        for device in devices.names:
            _compiled_product(device, "float32")
        yield Finding("XLA", "ok", f"compiles for {', '.join(devices.names)}")
    except tf.errors.OpError as error:
        text = f"does not compile for {device}: {error.message.splitlines()[0]}; install the "
        yield Finding("XLA", "broken", text + "TensorFlow that pyproject.toml names")
    device = devices.names[0]
    for precision in PRECISIONS:
        try:
            error_of_sum = _compiled_product(device, precision.removeprefix("mixed_"))
            text = f"works on {device}; sums of 16 products err by {error_of_sum:.0e}"
            yield Finding(precision, "ok", text)
        except tf.errors.OpError as error:
            text = f"not on {device}: {error.message.splitlines()[0]}; use another"
            yield Finding(precision, "limited", text)
    chosen = choose_precision(
        "auto", device_type=devices.device_type, compute_capability=devices.compute_capability
    )
    yield Finding("precision auto", "ok", f"takes {chosen.name}: {chosen.why}")


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


def _kernels() -> Iterator[Finding]:
    """The compiler, the kernels' cache, the interface to XLA, and whether the kernels are right."""
    try:
        compiler = require_compiler()
        told = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
        text = f"{' '.join(compiler)}: {told.stdout.splitlines()[0]}"
        yield Finding("C++ compiler", "ok", text)
        yield Finding("kernel cache", "ok", str(cache_folder()))
        yield Finding("XLA FFI API", "ok", "version {}.{}".format(*ffi_api_version()))
        built = load()
    except NativeUnavailableError as error:
        yield Finding("native kernels", "limited", str(error), "native")
        return
    sums = native_product().numpy().tolist()
    if sums == [[20.0, 22.0], [0.0, 0.0]]:
        seconds = built.compile_seconds
        text = f"built in {seconds:.1f} s: " if seconds else "built before: "
        yield Finding("native kernels", "ok", f"{text}{built.path}", "native")
    else:
        text = f"{built.path} gives wrong sums ({sums}): remove it and run again"
        yield Finding("native kernels", "broken", text, "native")


def native_product() -> tf.Tensor:
    """The native sums over ids 9 and 1, and over no ids: [2, 2], always on the CPU, the only device
    with native kernels."""
    with tf.device("/CPU:0"):
        table = tf.constant(np.arange(20, dtype=np.float32).reshape(10, 2))
        values, row_splits = tf.constant([9, 1, 9]), tf.constant([0, 3, 3])
        return multi_hot_dense(table, values, row_splits, implementation="native")


def _tensorboard() -> Iterator[Finding]:
    text = f"{installed_version('tensorboard')}: {as_command('tensorboard RUN_DIR')}"
    yield Finding("TensorBoard", "ok", text, "tensorboard")
    subject = "profile plugin"
    if not (xprof := _installed("xprof")):
        text = (
            f"xprof is not installed, for harness profile and TensorBoard's Profile tab: {INSTALL}"
        )
        yield Finding(subject, "limited", text, "profile")
    elif _installed("tensorboard-plugin-profile"):
        # The older package of the same plugin: TensorBoard would show the tab twice, or fail.
        text = f"xprof {xprof}, and tensorboard-plugin-profile beside it: {sys.executable} -m pip "
        text += "uninstall tensorboard-plugin-profile"
        yield Finding(subject, "limited", text, "profile")
    else:
        yield Finding(subject, "ok", f"xprof {xprof}", "profile")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _dataset() -> Finding:
    path = cached_file("imdb.npz")
    if path.is_file():
        text = f"imdb at {path} ({path.stat().st_size / 1e6:.1f} MB), and synthetic"
        return Finding("data sets", "ok", text, "data")
    text = (
        f"synthetic alone; no {path}: the first run with --data imdb downloads it, or put it there"
    )
    return Finding("data sets", "limited", text, "data")


def _disks() -> Iterator[Finding]:
    places = {"run folders": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    with contextlib.suppress(NativeUnavailableError):  # the kernels' own line says why
        places["kernel cache"] = cache_folder()
    for what, place in places.items():
        free_bytes = shutil.disk_usage(place).free
        text = f"{free_bytes / 1e9:,.1f} GB free for {what}, at {place}"
        if free_bytes < _LEAST_FREE_BYTES:
            text += ": make room, or the run ends with a full disk"
            yield Finding("disk", "limited", text)
        else:
            yield Finding("disk", "ok", text)
