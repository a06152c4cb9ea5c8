"""Sums over rows together: the same numbers, by fewer reductions."""

import numpy as np
import pytest
import tensorflow as tf

from harness.engine.column_sums import summed_together

_NUM_LAYERS = 10


@pytest.fixture(scope="module")
def compiled() -> tf.types.experimental.PolymorphicFunction:
    @tf.function(jit_compile=True, autograph=False, reduce_retracing=False)
    def gradients(x: tf.Tensor, labels: tf.Tensor, weights: dict[str, tf.Tensor]) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            for layer in range(_NUM_LAYERS):
                x = tf.nn.bias_add(x @ weights["square"], weights[f"bias_{layer}"])
                x = tf.nn.gelu(x) + tf.cast(tf.cast(weights["shift"], tf.bfloat16), tf.float32)
            outputs = x @ weights["head"] + weights["offset"]
            loss = tf.reduce_sum(tf.square(outputs - labels)) + weights["scalar"]
        found = tape.gradient(loss, weights)
        return found, summed_together(found)

    return gradients


def test_the_same_gradients_by_fewer_reductions(
    compiled: tf.types.experimental.PolymorphicFunction,
) -> None:
    rng = np.random.default_rng(0)
    shapes = {f"bias_{i}": (5,) for i in range(_NUM_LAYERS)}
    shapes |= {"square": (5, 5), "shift": (5,), "head": (5, 1), "offset": (1,), "scalar": ()}
    weights = {n: tf.constant(rng.normal(size=s), tf.float32) for n, s in shapes.items()}
    x, labels = (tf.constant(rng.normal(size=(24, n)), tf.float32) for n in (5, 1))
    expected, found = compiled(x, labels, weights)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert found[name].shape == gradient.shape
        # A weight that is used in many places is left as it was: its gradient is no one sum.
        exact = name in ("square", "shift", "scalar")
        rounding = 0 if exact else 2e-6 * np.abs(gradient).max()
        np.testing.assert_allclose(found[name], gradient, atol=rounding, rtol=0)
    text = compiled.get_concrete_function(x, labels, weights).graph.as_graph_def()
    joined = [node for node in text.node if node.op == "XlaVariadicReduceV2"]
    assert [len(node.input) // 2 for node in joined] == [8, 4]
