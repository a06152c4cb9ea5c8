"""The contract on a real GPU: what `./scripts/gpu-first-hour` runs first. Left out where there is
none."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels.multi_hot.cases import IMDB_500
from tests.kernels.multi_hot.checks import value_and_gradient
from tests.kernels.multi_hot.contract import ProductContract
from tests.kernels.multi_hot.rows_contract import RowsContract

pytestmark = pytest.mark.skipif(
    not tf.config.list_physical_devices("GPU"), reason="needs a GPU that TensorFlow can use"
)


class TestOnGpu(RowsContract, ProductContract):
    """All of it but errors, in whose place there is NaN."""

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
        sets = IMDB_500.draw(0)
        function = tf.function(value_and_gradient, jit_compile=True)
        operands: list[Any] = [
            tf.constant(part) for part in (sets.table, sets.values, sets.row_splits, sets.dy)
        ]
        first = [x.numpy() for x in function(self.implementation, False, *operands)]
        for _ in range(50):
            again = function(self.implementation, False, *operands)
            for one, other in zip(first, again, strict=True):
                np.testing.assert_array_equal(one, other)
