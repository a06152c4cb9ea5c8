"""Trained with either, the same model has the same losses: `native` beside `gather`."""

import secrets
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels.multi_hot import Implementation, multi_hot_dense
from kernels.multi_hot.cases import Case
from kernels.multi_hot.native.build import find_compiler

NUM_STEPS = 80
SHAPES: dict[str, Any] = {"num_rows": 100, "num_tokens": 2_000, "units": 50, "mean_length": 60}


def losses(case: Case, seed: int, implementation: Implementation) -> np.ndarray:
    """Return the losses of 80 Adam steps of gelu(multi_hot @ table) @ head, on planted labels."""
    sets = case.draw(seed)
    labels = tf.constant(sets.dy[:, :1] > 0, tf.float32)

    @tf.function(jit_compile=True)
    def step(weights: Any, means: Any, squares: Any, rate: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            table, head = weights
            y = multi_hot_dense(
                table, sets.values, sets.row_splits,
                implementation=implementation, unique=case.unique,
            )  # fmt: skip
            logits = tf.nn.gelu(y) @ head  # a ReLU's kink would part the two by chance
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
        gradients = tape.gradient(loss, weights)
        means = [0.9 * mean + 0.1 * new for mean, new in zip(means, gradients, strict=True)]
        squares = [
            0.999 * old + 0.001 * new**2 for old, new in zip(squares, gradients, strict=True)
        ]
        weights = [
            weight - rate * mean / (tf.sqrt(square) + 1e-7)
            for weight, mean, square in zip(weights, means, squares, strict=True)
        ]
        return loss, weights, means, squares

    head = np.random.default_rng(seed).normal(size=(case.units, 1))
    weights = [tf.constant(weight, tf.float32) for weight in (sets.table * 0.01, head)]
    means = squares = [tf.zeros_like(weight) for weight in weights]
    curve = []
    for count in range(1, NUM_STEPS + 1):
        rate = tf.constant(1e-3 * (1 - 0.999**count) ** 0.5 / (1 - 0.9**count), tf.float32)
        loss, weights, means, squares = step(weights, means, squares, rate)
        curve.append(float(loss))
    return np.array(curve)


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("unique", [True, False])
def test_losses_agree_with_gather(unique: bool) -> None:
    case = Case(name="small", unique=unique, **SHAPES)
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    native, gather = (losses(case, seed, name) for name in ("native", "gather"))
    assert native[-1] < 0.8 * native[0]
    np.testing.assert_allclose(native, gather, rtol=1e-4)
