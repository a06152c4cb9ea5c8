"""What the suites share: the devices that a benchmark of two replicas needs."""

import pytest
import tensorflow as tf

from harness.engine.devices import set_up_devices


@pytest.fixture(scope="session", autouse=True)
def _two_devices() -> None:
    """Two logical CPU devices, made before a benchmark of one replica starts TensorFlow with one.

    One replica is as fast beside the second device as without it.
    """
    if not tf.config.list_physical_devices("GPU"):
        set_up_devices(2)
