"""Small layers and the gradients of small weights as a GPU computes them: the same numbers by other
sums."""

import contextlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.program.launches import (
    by_fewer_kernels,
    small_layers,
    small_products,
)

_NUM_LAYERS = 10


@tf.function(jit_compile=True, autograph=False)
def _gradients(x: tf.Tensor, labels: tf.Tensor, weights: Mapping[str, tf.Tensor]) -> Any:
    """Returns the gradients of a network, unchanged and by fewer kernels."""
    with tf.GradientTape() as tape:
        tape.watch(weights)
        for layer in range(_NUM_LAYERS):
            x = tf.nn.bias_add(x @ weights["shared"], weights[f"bias_{layer}"])
            x = tf.nn.gelu(x) + tf.cast(tf.cast(weights["shift"], tf.bfloat16), tf.float32)
        x = tf.cast(x, tf.bfloat16) @ tf.cast(weights["kernel"], tf.bfloat16)
        outputs = tf.cast(x, tf.float32) @ weights["head"] + weights["offset"]
        loss = tf.reduce_sum(tf.square(outputs - labels)) + weights["scalar"]
    found = tape.gradient(loss, weights)
    return found, by_fewer_kernels(found)


def test_the_same_gradients_by_fewer_reductions() -> None:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {f"bias_{i}": (5,) for i in range(_NUM_LAYERS)}
    shapes |= {"shared": (5, 5), "shift": (5,), "kernel": (5, 7), "head": (7, 1), "offset": (1,)}
    shapes |= {"scalar": ()}
    weights = {n: tf.constant(rng.normal(size=s), tf.float32) for n, s in shapes.items()}
    x, labels = (tf.constant(rng.normal(size=(120, n)), tf.float32) for n in (5, 1))
    expected, found = _gradients(x, labels, weights)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert found[name].shape == gradient.shape
        # A weight that is used in many places is left as it was: its gradient is no one sum.
        rounding = {"shared": 0, "shift": 0, "scalar": 0, "kernel": 2**-8}.get(name, 2e-6)
        error = np.abs(found[name] - gradient).max()
        assert error <= rounding * np.abs(gradient).max(), name


@pytest.mark.parametrize(
    ("dtype", "rounding"), [("float32", 1e-5), ("mixed_float16", 2e-3), ("mixed_bfloat16", 2e-2)]
)
def test_small_layers_compute_what_keras_does(dtype: str, rounding: float) -> None:
    """Rounding is relative to the largest number, after ten layers."""
    x = inputs = keras.Input((7,))
    for width in (2, 33, 3, 8, 1, 16, 128, 129):
        layer = keras.layers.Dense(
            width,
            activation="tanh",
            use_bias=width > 2,
            kernel_initializer=keras.initializers.GlorotUniform(seed=width),
            dtype=dtype,
        )
        x = layer(x)
    model = keras.Model(inputs, keras.layers.Dense(5, dtype="float32")(x))
    assert [layer.units for layer in small_layers(model, 12)] == [2, 33, 3, 8, 128]

    @tf.function(jit_compile=True, autograph=False)
    def trained(rows: tf.Tensor, *, for_gpu: bool) -> Any:
        with (
            tf.GradientTape() as tape,
            small_products(model, 12) if for_gpu else contextlib.nullcontext(),
        ):
            tape.watch(rows)
            outputs = model(rows)
            loss = tf.reduce_sum(tf.square(outputs))
        weights = {variable.path: variable.value for variable in model.trainable_variables}
        found = tape.gradient(loss, {"rows": rows, **weights})
        return {"outputs": outputs, **(by_fewer_kernels(found) if for_gpu else found)}

    rows = tf.constant(np.random.default_rng(0).normal(size=(12, 7)), tf.float32)
    found, expected = trained(rows, for_gpu=True), trained(rows, for_gpu=False)
    for name, tensor in expected.items():
        error = np.abs(found[name] - tensor).max()
        assert error <= rounding * np.abs(tensor).max(), name


def test_layers_that_are_unused_or_adapted_stay_as_they_are() -> None:
    layers = [keras.layers.Dense(4, name=name) for name in ("plain", "adapted", "unused")]
    for layer in layers[:2]:
        layer.build((None, 5))
    layers[1].enable_lora(2)
    model = keras.Sequential(layers)
    assert [layer.name for layer in small_layers(model, 3)] == ["plain"]
