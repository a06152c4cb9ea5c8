"""BatchNormalization of a device's share, against Keras's on the whole batch. The cases of
benchmarks.differential train with it, and test_two_devices.py tests it on two devices."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.feed.batch import ReplicaBatch
from harness.program.all_reduce import over_all_rows
from harness.program.strategy import Replica, strategy_of

pytestmark = pytest.mark.usefixtures("logical_devices")


def normalized(
    inputs: np.ndarray, *, devices: int, mask: np.ndarray | None = None, dtype: str = "float32"
) -> tuple[np.ndarray, list[keras.layers.BatchNormalization]]:
    """Returns the outputs, and the layer of each device; the devices are threads."""
    barrier, sums = Barrier(devices), [[] for _ in range(devices)]  # type: list[list[tf.Tensor]]

    def on(place: int) -> tuple[np.ndarray, keras.layers.BatchNormalization]:
        def all_reduce(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            sums[place] = list(tensors)
            barrier.wait()
            total = [tf.add_n(parts) for parts in zip(*sums, strict=True)]
            barrier.wait()
            return total

        layer = keras.layers.BatchNormalization(momentum=0.0, synchronized=True, dtype=dtype)
        layer.build(inputs.shape)
        rows = np.array_split(np.arange(len(inputs)), devices)[place]
        own = rows if rows.size else [0]
        batch = ReplicaBatch({}, None, tf.ones([len(own)])).within(len(inputs), devices, place)
        replica = Replica(strategy_of(("/CPU:0",)), place, all_reduce)
        with replica, over_all_rows(keras.Sequential([layer]), batch):
            outputs = layer(inputs[own], training=True, mask=None if mask is None else mask[own])
        return np.asarray(outputs)[: batch.num_rows], layer

    with ThreadPoolExecutor(devices) as pool:
        outputs, layers = zip(*pool.map(on, range(devices)), strict=True)
    return np.concatenate(outputs), list(layers)


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 3), st.sampled_from(["rows", "images", "masked"]))
def test_it_is_keras_own_on_the_whole_batch(rows: int, devices: int, kind: str) -> None:
    rng = np.random.default_rng()
    inputs = rng.normal(3, 2, size=[rows, 4] if kind == "rows" else [rows, 2, 4])
    inputs = inputs.astype(np.float32)
    mask = rng.integers(0, 2, [rows, 2]).astype(bool) if kind == "masked" else None
    if mask is not None:
        mask[0, 0] = True
    alone = keras.layers.BatchNormalization(momentum=0.0)
    expected = alone(inputs, training=True, mask=mask)
    outputs, layers = normalized(inputs, devices=devices, mask=mask)
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-3)
    for layer in layers:
        np.testing.assert_allclose(layer.moving_mean, alone.moving_mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            layer.moving_variance, alone.moving_variance, rtol=1e-4, atol=1e-5
        )


def test_16_bits_are_normalized_in_float32() -> None:
    inputs = np.full([4096, 1], 40.0, np.float16)  # whose squares and sums float16 does not hold
    outputs, (layer, _) = normalized(inputs, devices=2, dtype="mixed_float16")
    assert outputs.dtype == np.float16
    assert float(layer.moving_mean[0]) == 40
    assert not outputs.any()
