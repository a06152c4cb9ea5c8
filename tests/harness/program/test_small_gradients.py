"""The gradients of small weights as a GPU computes them: the same numbers by fewer sums."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from harness.program.small_gradients import by_fewer_kernels

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
