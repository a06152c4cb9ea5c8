"""The contract on a real GPU, which `./scripts/gpu-first-hour` runs first, or on the device of
tests/emulated_gpu. Skipped if there is neither."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels.multi_hot import (
    ROW_OPTIMIZERS,
    BatchGroup,
    BatchRef,
    RowOptimizer,
    multi_hot_dense,
    registry,
)
from kernels.multi_hot.native import product as native
from kernels.multi_hot.registry import Problem
from kernels.multi_hot.table_rules import Rule, StepNumbers
from tests.kernels.multi_hot import reference
from tests.kernels.multi_hot.cases import IMDB_500, SMALL
from tests.kernels.multi_hot.checks import value_and_gradient
from tests.kernels.multi_hot.contract import ProductContract
from tests.kernels.multi_hot.rows_contract import RowsContract

pytestmark = pytest.mark.skipif(
    not tf.config.list_physical_devices("GPU"), reason="needs a GPU that TensorFlow can use"
)
# A step of IMDB's takes seconds there.
CASE = SMALL[1] if "EMULATED_GPU_DEVICES" in os.environ else IMDB_500


class TestOnGpu(RowsContract, ProductContract):
    """All of the contract, with NaN in place of errors."""

    implementation = "native"

    @pytest.fixture(autouse=True)
    def _on_gpu(self) -> Iterator[None]:
        with tf.device("/GPU:0"):
            yield

    @pytest.mark.parametrize(
        ("values", "row_splits", "wrong"),
        [
            ([1, 11, 2], [0, 2, 3], [True, False]),
            ([1, 2, -1], [0, 2, 3], [False, True]),
            ([1, 2], [0, 3], [True]),
            ([1, 2], [0, 2, 1], [False, True]),
            ([1, 2], [1, 2], [True]),
        ],
        ids=str,
    )
    def test_wrong_data_raises(
        self, values: list[int], row_splits: list[int], wrong: list[bool]
    ) -> None:
        y, dw = tf.function(value_and_gradient, jit_compile=True)(
            self.implementation, False, tf.ones([11, 3]), tf.constant(values),
            tf.constant(row_splits, tf.int64), tf.ones([len(wrong), 3]),
        )  # fmt: skip
        np.testing.assert_array_equal(np.isnan(y).all(axis=1), wrong)
        assert np.isnan(dw).all()

    def test_the_same_bits_every_time(self) -> None:
        sets = CASE.draw(0)
        function = tf.function(value_and_gradient, jit_compile=True)
        operands: list[Any] = [
            tf.constant(part) for part in (sets.table, sets.values, sets.row_splits, sets.dy)
        ]
        first = [x.numpy() for x in function(self.implementation, False, *operands)]
        for _ in range(50):
            again = function(self.implementation, False, *operands)
            for one, other in zip(first, again, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_that_are_sorted_at_once(weighted: bool) -> None:
    """The batches have three sizes of digits and several segments; errors in one do not affect the
    others."""
    L, N, B, V, H = 3, 1_500, 60, 70_000, 5
    rng = np.random.default_rng()
    values = rng.integers(0, V, [L, N]).astype(np.int32)
    values[:, ::3] %= 7  # runs that cross tiles
    splits = np.sort(rng.integers(0, N - 9, [L, B + 1]), axis=1).astype(np.int32)
    splits[:, 0] = 0
    weights = rng.normal(size=[L, N]).astype(np.float32) if weighted else None
    dy = rng.normal(size=[B, H]).astype(np.float32)
    wrong = splits.copy()
    wrong[1, 3] = N + 1

    @tf.function(jit_compile=True)
    def gradients(values: Any, splits: Any, weights: Any, dy: Any) -> list[Any]:
        found, lot, table = [], BatchGroup(values, splits, weights), tf.zeros([V, H])
        for step in range(L):
            with tf.GradientTape() as tape:
                tape.watch(table)
                y = multi_hot_dense(
                    table, values[step], splits[step], implementation="native",
                    weights=None if weights is None else weights[step],
                    group=BatchRef(lot, tf.constant(step)),
                )  # fmt: skip
            found.append(tape.gradient(y, table, dy))
        return found

    with tf.device("/GPU:0"):
        right, spoiled = (
            [x.numpy() for x in gradients(values, own, weights, tf.constant(dy))]
            for own in (splits, wrong)
        )
    for step in range(L):
        own = None if weights is None else weights[step]
        wanted = reference.table_gradient(
            dy.astype(np.float64), values[step], splits[step], num_tokens=V, weights=own
        )
        np.testing.assert_allclose(right[step], wanted, rtol=1e-4, atol=1e-4)
        if step == 1:
            assert np.isnan(spoiled[step]).all()
        else:
            np.testing.assert_array_equal(spoiled[step], right[step])


def updated(kind: RowOptimizer, dtype: tf.DType, device: str) -> list[np.ndarray]:
    """Return a table and its slots after some steps on a device; every other step has other
    ids."""
    rule, sets = Rule(kind), CASE.draw(0)
    V, H = sets.table.shape

    @tf.function(jit_compile=True)
    def step(parts: Any, values: Any, splits: Any, dy: Any, number: Any) -> Any:
        product, active = registry.product("native"), tf.constant(True)
        touched = product.touch(Problem(values, splits, V, tf.float32, unique=False))
        if kind == "exact_adam":
            parts = native.catch_up(rule, parts, touched, step=number - 1, active=active)
        rate = rule.rate(tf.constant(0.01), number)
        numbers = StepNumbers(rate, tf.constant(0.5), number, active)
        return product.update(rule, parts, touched, dy, None, numbers)

    with tf.device(device):
        slots = rule.slots(V, H).values()
        parts = [tf.cast(tf.constant(sets.table), dtype)]
        parts += [tf.fill(shape, tf.cast(value, kept)) for shape, kept, value in slots]
        for number in range(1, 9):
            values = sets.values if number % 2 else sets.values // 2
            parts = step(
                parts, tf.constant(values), tf.constant(sets.row_splits), tf.constant(sets.dy),
                tf.constant(number, tf.int64),
            )  # fmt: skip
        return [tf.cast(part, tf.float32).numpy() for part in parts]


@pytest.mark.parametrize("kind", ROW_OPTIMIZERS)
def test_updates_of_touched_rows_are_those_of_a_cpu(kind: RowOptimizer) -> None:
    for dtype in (tf.float32, tf.bfloat16)[: 1 if kind == "exact_adam" else 2]:
        own, cpus = (updated(kind, dtype, device) for device in ("/GPU:0", "/CPU:0"))
        if dtype == tf.bfloat16:  # sums in another order are now and then rounded the other way
            assert (own[0] == cpus[0]).mean() > 0.98
            own, cpus = own[1:], cpus[1:]
        for one, other in zip(own, cpus, strict=True):
            # Adam's steps make much of what is left of a gradient whose terms cancel.
            assert np.isclose(one, other, rtol=1e-4, atol=1e-5).mean() > 0.999
