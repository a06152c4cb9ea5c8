"""The contract of implementations that are made of XLA's own operations, as one test class.

They run on every device, cannot raise inside a compiled program, and take `value_rowids`.
B rows, V num_tokens, H units, N values.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests.kernels.multi_hot.checks import compiled, rowids_of
from tests.kernels.multi_hot.contract import MultiHotContract


class XlaContract(MultiHotContract):
    """Further tests for implementations that consist only of XLA's own operations."""

    @pytest.mark.parametrize(
        ("values", "row_splits", "unique"),
        [
            ([1, 11, 0], [0, 2], True),
            ([1, 11, 0], [0, 2], False),
            ([1, 2, -1], [0, 2, 3], False),
            ([1, 2, 3], [0, 4], True),
            ([1, 2, 3], [0, 2, 1], False),
            ([1, 2, 3], [-1, 2], True),
            ([1, 2, 3], [0, 2**40], False),
        ],
        ids=str,
    )
    def test_wrong_data_gives_nan_where_compiled(
        self, values: list[int], row_splits: list[int], unique: bool
    ) -> None:
        weighted = unique and row_splits == [0, 2]
        for weights in (None, tf.ones([3])) if weighted else (None,):
            y, dw = compiled(
                self.implementation, unique, tf.ones([11, 3]), tf.constant(values),
                tf.constant(row_splits, tf.int64), tf.ones([len(row_splits) - 1, 3]), None, weights,
            )  # fmt: skip
            assert np.isnan(y).all()
            assert not np.isfinite(dw).all()

    @pytest.mark.parametrize("rowids_dtype", [tf.int32, tf.uint16], ids=lambda dtype: dtype.name)
    def test_property_with_rowids(self, rowids_dtype: tf.DType) -> None:
        self.check_any_rows(rowids_dtype, weighted=rowids_dtype == tf.uint16)

    def test_rowids_in_a_compiled_loop(self, rng: np.random.Generator) -> None:
        self.check_descent(rng, with_rowids=True)

    @pytest.mark.parametrize(
        ("dtype", "unique"), [(tf.float32, False), (tf.bfloat16, False), (tf.float16, True)]
    )
    def test_a_wrong_id_gives_its_row_nan_with_rowids(
        self, dtype: tf.DType, unique: bool, rng: np.random.Generator
    ) -> None:
        """A row that also holds id 0 gets NaN too: a wrong id must not be taken for id 0."""
        rows = [[1, 4], [0, 11], [-1, 3, 0], [2], [2**31 - 1]]
        wrong = np.array([False, True, True, False, True])
        row_splits = np.cumsum([0, *map(len, rows)])
        table = tf.constant(rng.normal(size=(11, 3)), dtype)
        values = tf.constant([token_id for row in rows for token_id in row], tf.int32)
        weighted = not unique and dtype == tf.float32
        for weights in (None, tf.ones(len(values))) if weighted else (None,):
            y, _ = compiled(
                self.implementation, unique, table, values, tf.constant(row_splits, tf.int32),
                tf.ones([5, 3], dtype),
                tf.constant(rowids_of(row_splits, row_splits[-1]), tf.int32), weights,
            )  # fmt: skip
            y = tf.cast(y, tf.float32).numpy()
            assert np.isnan(y[wrong]).all()
            # Else the ids are sorted, and which of them was wrong is not known any more.
            if unique or weights is not None:
                assert np.isfinite(y[~wrong]).all()
