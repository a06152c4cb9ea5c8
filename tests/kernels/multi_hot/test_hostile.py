"""Thousands of random hostile inputs through the public API: an exception or the right answer."""

import secrets
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels.multi_hot import IMPLEMENTATIONS, Implementation, multi_hot_dense
from kernels.multi_hot.registry import why_unavailable
from tests.kernels.multi_hot import reference

KERNELS = {"native"}
"""The implementations that raise inside compiled programs, where an input takes little time."""
WILD = (-1, 0, 1, 2, 5, 7, 8, 2**15, 2**16, 2**31 - 1, -(2**31), 2**31, 2**40, 2**63 - 1, -(2**63))


def is_legal(values: np.ndarray, row_splits: np.ndarray, num_tokens: int) -> bool:
    """Whether the contract allows these sets, regardless of the implementations' checks."""
    splits = [int(split) for split in row_splits]
    if splits[0] != 0 or splits != sorted(splits) or splits[-1] > len(values):
        return False
    return all(0 <= token_id < num_tokens for token_id in values[: splits[-1]])


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return table, values and row_splits: legal ones, of few shapes, with up to three hits."""
    num_tokens, units = [(1, 1), (7, 3), (8, 19)][rng.integers(3)]
    num_values, num_rows = [(0, 0), (0, 3), (5, 2), (16, 4)][rng.integers(4)]
    values = rng.integers(0, num_tokens, num_values).astype(np.int32)
    splits = np.sort(rng.integers(0, num_values + 1, num_rows + 1))
    splits[0] = 0
    dtype = [np.int32, np.int64][rng.integers(2)]
    for _ in range(rng.integers(4)):
        hit: Any = WILD[rng.integers(len(WILD))]
        if rng.random() < 0.5:
            splits[rng.integers(num_rows + 1)] = hit
        elif num_values:
            values[rng.integers(num_values)] = np.int64(hit).astype(np.int32)
    table = rng.normal(size=(num_tokens, units)).astype(np.float32)
    return table, values, splits.astype(dtype)


def skip_if_unavailable(implementation: str) -> None:
    if why := why_unavailable(implementation, "CPU"):
        pytest.skip(why)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_exception_or_right_answer(implementation: Implementation) -> None:
    skip_if_unavailable(implementation)
    num_inputs = 3_000 if implementation in KERNELS else 150
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)

    @tf.function(jit_compile=implementation in KERNELS, reduce_retracing=False)
    def value_and_gradient(table: Any, values: Any, row_splits: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(table)
            y = multi_hot_dense(table, values, row_splits, implementation=implementation)
        return y, tape.gradient(y, table)

    outcomes = {True: 0, False: 0}
    for _ in range(num_inputs):
        table, values, row_splits = draw(rng)
        legal = is_legal(values, row_splits, len(table))
        outcomes[legal] += 1
        arguments = (tf.constant(table), tf.constant(values), tf.constant(row_splits))
        if not legal:
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"row_splits|token id"):
                value_and_gradient(*arguments)
            continue
        y, gradient = value_and_gradient(*arguments)
        wanted = reference.multi_hot_dense(table, values, row_splits)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
        ones = np.ones_like(wanted)
        wanted = reference.table_gradient(ones, values, row_splits, num_tokens=len(table))
        np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-5)
    assert min(outcomes.values()) > num_inputs // 10
