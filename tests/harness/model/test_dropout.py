"""HashDropout: the share it drops, the scale, what masks have in common (nothing), its gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.model.layers import HashDropout
from kernels.random_bits import random_bits

pytestmark = pytest.mark.usefixtures("logical_devices")
SHAPE = (400, 50)


def masks(layer: keras.layers.Layer, count: int) -> np.ndarray:
    ones = tf.ones(SHAPE)
    return np.stack([layer(ones, training=True).numpy() != 0 for _ in range(count)])


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_it_drops_its_share_everywhere(rate: float) -> None:
    kept = masks(HashDropout(rate, seed=3), 40)
    # Five standard deviations of a binomial mean.
    for axis, trials in (
        (None, kept.size),
        ((0, 1), 40 * 400),
        ((0, 2), 40 * 50),
        ((1, 2), 20_000),
    ):
        deviation = np.sqrt(rate * (1 - rate) / trials)
        assert np.abs(kept.mean(axis=axis) - (1 - rate)).max() < 5 * deviation


def test_masks_are_uncorrelated() -> None:
    kept = masks(HashDropout(0.5, seed=3), 30).reshape(30, -1) * 2.0 - 1
    others = masks(HashDropout(0.5, seed=4), 30).reshape(30, -1) * 2.0 - 1
    limit = 5 / np.sqrt(kept.shape[1])
    steps = kept @ kept.T / kept.shape[1]
    assert np.abs(steps - np.eye(30)).max() < limit, "between calls"
    assert np.abs(kept @ others.T / kept.shape[1]).max() < limit, "between seeds"
    for shift in (1, 2, 7, 50, 64, 4096):
        within = (kept[:, shift:] * kept[:, :-shift]).mean(axis=1)
        assert np.abs(within).max() < limit * 1.2, f"between elements {shift} apart"


def test_no_mask_is_another_one_shifted() -> None:
    bits = [random_bits(tf.constant([2**16]), tf.constant([7, n])).numpy() for n in range(5)]
    for number, one in enumerate(bits):
        for other in bits[number + 1 :]:
            # Chance gives about one common value of two random sets of 2**16 in 2**32.
            assert len(np.intersect1d(one, other)) < 12


def test_what_is_kept_is_scaled_and_so_is_its_gradient() -> None:
    layer = HashDropout(0.25, seed=1)
    x = tf.random.normal(SHAPE, dtype=tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    kept = y.numpy() != 0
    np.testing.assert_allclose(y.numpy()[kept], x.numpy()[kept] / 0.75, rtol=1e-6)
    gradient = tape.gradient(y, x).numpy()
    np.testing.assert_allclose(gradient, kept / 0.75, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_compiled_and_eager_masks_are_the_same(dtype: str) -> None:
    eager, compiled = (HashDropout(0.3, seed=9, dtype=dtype) for _ in range(2))
    call = tf.function(lambda x: compiled(x, training=True), jit_compile=True)
    x = tf.cast(tf.ones(SHAPE), eager.compute_dtype)
    for _ in range(3):
        np.testing.assert_array_equal(eager(x, training=True).numpy() != 0, call(x).numpy() != 0)


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_at_its_limits_it_is_keras_dropout(rate: float, dtype: str) -> None:
    x = tf.cast([[1.0, 2.0], [0.0, 3.0]], dtype)
    for training in (False, True):
        ours, theirs = (
            kind(rate, seed=1)(x, training=training) for kind in (HashDropout, keras.layers.Dropout)
        )
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_it_saves_its_settings_and_refuses_a_noise_shape() -> None:
    copy = HashDropout.from_config(HashDropout(0.3, seed=5, name="drop").get_config())
    assert (copy.rate, copy.seed, copy.name) == (0.3, 5, "drop")
    with pytest.raises(ValueError, match="noise_shape must be None"):
        HashDropout(0.3, noise_shape=(1, 50))
