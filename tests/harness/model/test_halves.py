"""The dense layer whose gradients are summed over halves: against Keras, and against two halves."""

import secrets

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.model.halves import HalvesDense


def gradients(layer: keras.layers.Layer, x: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    """Those to the input and to each weight, compiled."""

    @tf.function(jit_compile=True, autograph=False)
    def compute(x: tf.Tensor, dy: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        weights = [weight.value for weight in layer.trainable_weights]
        return tape.gradient(y, [x, *weights], output_gradients=dy)

    found = compute(tf.constant(x, tf.float32), tf.constant(dy, tf.float32))
    return [np.asarray(gradient) for gradient in found]


@pytest.mark.parametrize("units", [1, 7])
@pytest.mark.parametrize("halves", [True, False])
def test_it_is_keras_dense(units: int, halves: bool) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    x, dy = rng.normal(size=(50, 9)), rng.normal(size=(50, units))
    ours = HalvesDense(units, halves=halves, activation="relu")
    theirs = keras.layers.Dense(units, activation="relu")
    for layer in (ours, theirs):
        layer.build((None, 9))
    theirs.set_weights([rng.normal(size=(9, units)), rng.normal(size=(units,))])
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
    for own, expected in zip(gradients(ours, x, dy), gradients(theirs, x, dy), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("units", [1, 50])
def test_halves_have_the_bits_of_two_replicas(units: int) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(500, 50)).astype(np.float32)
    dy = rng.normal(size=(500, units)).astype(np.float32)
    whole, part = HalvesDense(units, halves=True), HalvesDense(units)
    for layer in (whole, part):
        layer.build((None, 50))
    part.set_weights(whole.get_weights())
    both = [gradients(part, x[rows], dy[rows]) for rows in (slice(250), slice(250, 500))]
    for own, first, second in zip(
        gradients(whole, x, dy)[1:], both[0][1:], both[1][1:], strict=True
    ):
        np.testing.assert_array_equal(own, first + second)


def test_it_comes_back_from_its_config() -> None:
    layer = HalvesDense.from_config(HalvesDense(3, halves=True, activation="relu").get_config())
    assert (layer.units, layer.halves) == (3, True)
