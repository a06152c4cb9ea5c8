"""The computations and comparisons of the contract's tests.

B rows, V num_tokens, H units, N values.
"""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels.multi_hot import Implementation, multi_hot_dense, registry, touched_rows
from kernels.multi_hot.native.build import find_compiler
from kernels.multi_hot.registry import Tensor

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
DTYPES = (tf.float32, tf.bfloat16, tf.float16)
# Half a unit in the last place of the rounded result, doubled for what was rounded before it.
ROUNDING = {tf.float32: 2.0**-23, tf.bfloat16: 2.0**-8, tf.float16: 2.0**-10}
GARBAGE = (2**31 - 1, -(2**31), -1, 10**6)


def value_and_gradient(
    implementation: Implementation,
    unique: bool,
    table: Tensor,
    values: Tensor,
    row_splits: Tensor,
    dy: Tensor,
    value_rowids: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y [B, H] and dW [V, H]."""
    with tf.GradientTape() as tape:
        tape.watch(table)
        y = multi_hot_dense(
            table, values, row_splits,
            implementation=implementation, unique=unique, weights=weights,
            value_rowids=value_rowids,
        )  # fmt: skip
    return y, tape.gradient(y, table, output_gradients=dy)


def row_gradients(
    dy: Tensor, values: Tensor, row_splits: Tensor, *, implementation: Implementation, **how: Any
) -> tuple[Tensor, Tensor]:
    """Return the ids that a batch touches [n], and their rows of the gradient [n, H]; 0 in unused
    slots."""
    touched = touched_rows(values, row_splits, implementation=implementation, **how)
    rows, _ = registry.product(implementation).row_gradients(dy, touched)
    return touched.ids, tf.where(touched.ids[:, None] >= 0, rows, 0.0)


compiled = tf.function(value_and_gradient, jit_compile=True)
"""`value_and_gradient`, compiled once for each combination of shapes and types of all tests."""


def rowids_of(row_splits: np.ndarray, num_values: int) -> np.ndarray:
    """Return the row of each value, [N]; B behind the last row."""
    B = len(row_splits) - 1
    rows = np.repeat(np.arange(B), np.diff(row_splits))
    return np.concatenate([rows, np.full(num_values - len(rows), B)])


def assert_close(got: Tensor, want: np.ndarray, sum_of_magnitudes: np.ndarray) -> None:
    """Compare with float64 truth: float32 sums of any order, rounded once to the dtype."""
    assert np.isfinite(tf.cast(got, tf.float32)).all()
    error = np.abs(tf.cast(got, tf.float64).numpy() - want)
    limit = ROUNDING[got.dtype] * np.abs(want) + 3e-6 * sum_of_magnitudes + 1e-7
    assert (error <= limit).all(), f"off by {error.max()}, {(error / limit).max()} of the limit"


def weights_of(ids: list[int], spare: int, rng: np.random.Generator) -> np.ndarray:
    """Return random weights of the ids, some 0, and behind them what must not count."""
    weights = rng.normal(size=len(ids)) * (rng.random(len(ids)) < 0.9)
    return np.concatenate([weights, np.resize([np.nan, np.inf, 1e30], spare)])
