"""What the devices compute: XLA, the precisions, and which one `auto` takes."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from harness.commands.doctor.finding import Finding
from harness.config import PRECISIONS
from harness.engine.devices import Devices
from harness.model.precision import choose_precision


def computing(devices: Devices) -> Iterator[Finding]:
    """Compiles and runs a product on each device, in each precision on the first."""
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
