"""BatchNormalization against NumPy's moments of the real rows; test_any_model.py has it in steps
beside Keras's, test_two_devices.py on two devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine.normalization import over_all_rows

pytestmark = pytest.mark.usefixtures("logical_devices")


def normalized(
    layer: keras.layers.Layer, inputs: np.ndarray, real: np.ndarray, *, devices: int = 1
) -> np.ndarray:
    def all_reduce(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        return [devices * tensor for tensor in tensors]  # the others have the same rows

    model = keras.Sequential([layer])
    with over_all_rows(model, tf.constant(real, tf.float32), all_reduce):
        return np.asarray(model(inputs, training=True))


@settings(max_examples=20)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 3), st.booleans())
def test_moments_are_those_of_the_real_rows(real: list[bool], devices: int, is_image: bool) -> None:
    rng = np.random.default_rng()
    counts = np.array(real)
    inputs = rng.normal(3, 2, size=[len(real), 2, 4] if is_image else [len(real), 4])
    inputs = inputs.astype(np.float32)
    inputs[~counts] = 1e6  # what padding holds does not matter
    layer = keras.layers.BatchNormalization(momentum=0.0)
    outputs = normalized(layer, inputs, counts, devices=devices)
    own = inputs[counts].reshape([-1, 4]).astype(np.float64)
    mean, variance = (own.mean(axis=0), own.var(axis=0)) if len(own) else (np.zeros(4),) * 2
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-4, atol=1e-5)
    expected = (inputs[counts] - mean) / np.sqrt(variance + layer.epsilon)
    np.testing.assert_allclose(outputs[counts], expected, rtol=1e-3, atol=1e-3)


def test_layers_are_as_before_afterwards_and_at_any_depth() -> None:
    inner = keras.layers.BatchNormalization(momentum=0.0)
    inputs = np.array([[1.0], [3.0], [50.0]], np.float32)
    normalized(keras.Sequential([inner]), inputs, np.array([1, 1, 0]))
    assert float(inner.moving_mean[0]) == 2
    inner(inputs, training=True)
    assert float(inner.moving_mean[0]) == 18


def test_16_bits_are_normalized_in_float32() -> None:
    layer = keras.layers.BatchNormalization(momentum=0.0, dtype="mixed_float16")
    inputs = np.full([4096, 1], 40.0, np.float16)  # whose squares and sums float16 does not hold
    outputs = normalized(layer, inputs, np.ones(4096))
    assert outputs.dtype == np.float16
    assert float(layer.moving_mean[0]) == 40
    assert not outputs.any()
