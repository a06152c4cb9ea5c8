"""The contract of every implementation of the multi-hot product, as one test class.

A test module of four lines instantiates `MultiHotContract`. Random inputs are fresh in every run;
the seed is printed when a test fails. B rows, V num_tokens, H units, N values.
"""

from typing import ClassVar

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from kernels.multi_hot import Implementation, multi_hot, multi_hot_dense
from kernels.multi_hot.registry import Tensor
from kernels.multi_hot.segments import rowids_of_splits
from tests.kernels.multi_hot import checks, reference
from tests.kernels.multi_hot.cases import SMALL, WEIGHTED, Case
from tests.kernels.multi_hot.checks import (
    DTYPES,
    GARBAGE,
    assert_close,
    rowids_of,
    value_and_gradient,
    weights_of,
)
from tests.kernels.multi_hot.rows_contract import RowsContract


class ProductContract:
    """The product and its gradient to the table."""

    implementation: ClassVar[Implementation]

    def run(
        self,
        rows: list[list[int]],
        rng: np.random.Generator,
        *,
        V: int = 11,
        H: int = 5,
        unique: bool = False,
        spare: int = 0,
        dtype: tf.DType = tf.float32,
        compiled: bool = True,
        splits_dtype: tf.DType = tf.int32,
        rowids_dtype: tf.DType | None = None,
        weighted: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Check y and dW of `rows` against the reference; return them."""
        ids = [token_id for row in rows for token_id in row]
        values = np.array([*ids, *np.resize(GARBAGE, spare)], np.int64)
        row_splits = np.cumsum([0] + [len(row) for row in rows])
        table, dy = rng.normal(size=(V, H)), rng.normal(size=(len(rows), H))
        weights = weights_of(ids, spare, rng) if weighted else None
        y, dw = self.check(
            table, values, row_splits, dy, unique=unique, dtype=dtype, compiled=compiled,
            splits_dtype=splits_dtype, rowids_dtype=rowids_dtype, weights=weights,
        )  # fmt: skip
        return y.numpy(), dw.numpy()

    def check(
        self,
        table: np.ndarray,
        values: np.ndarray,
        row_splits: np.ndarray,
        dy: np.ndarray,
        *,
        unique: bool,
        dtype: tf.DType,
        compiled: bool,
        splits_dtype: tf.DType = tf.int64,
        rowids_dtype: tf.DType | None = None,
        weights: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Check y and dW against the reference computed from the operands as rounded to dtype.

        With a `rowids_dtype`, the rows of the values are handed over too.
        """
        table, dy = tf.constant(table, dtype), tf.constant(dy, dtype)
        function = checks.compiled if compiled else value_and_gradient
        rowids = None
        if rowids_dtype is not None:
            rowids = tf.constant(rowids_of(row_splits, len(values)), rowids_dtype)
        y, dw = function(
            self.implementation, unique, table, tf.constant(values, tf.int32),
            tf.constant(row_splits, splits_dtype), dy, rowids,
            None if weights is None else tf.constant(weights, tf.float32),
        )  # fmt: skip
        assert y.dtype == dtype
        assert dw.dtype == dtype
        table, dy = (tf.cast(operand, tf.float64).numpy() for operand in (table, dy))
        size = reference.multi_hot(
            values, row_splits, num_tokens=len(table),
            weights=None if weights is None else np.abs(weights),
        )  # fmt: skip
        wanted = reference.multi_hot_dense(table, values, row_splits, weights)
        assert_close(y, wanted, size @ np.abs(table))
        wanted = reference.table_gradient(
            dy, values, row_splits, num_tokens=len(table), weights=weights
        )
        assert_close(dw, wanted, size.T @ np.abs(dy))
        return y, dw

    @pytest.mark.parametrize(
        ("case", "dtype"),
        [(case, tf.float32) for case in SMALL]
        + [(case, dtype) for case in SMALL[:2] for dtype in DTYPES[1:]]
        + [(WEIGHTED, tf.bfloat16)],
        ids=lambda part: part.name,
    )
    def test_named_case(self, case: Case, dtype: tf.DType, rng: np.random.Generator) -> None:
        sets = case.draw(int(rng.integers(2**32)))
        for compiled in (False, True):
            self.check(
                sets.table, sets.values, sets.row_splits, sets.dy,
                unique=case.unique, dtype=dtype, compiled=compiled, weights=sets.weights,
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("rows", "unique"),
        [
            ([[3]], True),
            ([[7, 2, 9, 0]], True),
            ([[0], [10], [0, 10]], True),
            ([[], [5, 1], [], [], [8], []], True),
            ([[4, 4, 4], [9, 1, 9, 1], [4]], False),
            ([[10, 0, 5, 0, 10], [10]], False),
            ([[], [], []], True),
            ([[], []], False),
            ([], True),
            ([], False),
        ],
        ids=str,
    )
    def test_shape_of_rows(
        self, rows: list[list[int]], unique: bool, rng: np.random.Generator
    ) -> None:
        for weighted in (False, True) if unique else (False,):
            self.run(rows, rng, unique=unique, compiled=False, weighted=weighted)
        # Compiling takes time: the property test has the other shapes.
        if not any(rows):
            self.run(rows, rng, unique=unique, spare=3, weighted=unique)

    @pytest.mark.parametrize("splits_dtype", [tf.int32, tf.int64], ids=lambda dtype: dtype.name)
    def test_type_of_splits(self, splits_dtype: tf.DType, rng: np.random.Generator) -> None:
        self.run([[1, 2], [2, 1]], rng, unique=True, splits_dtype=splits_dtype)

    @pytest.mark.parametrize("H", [1, 7, 16, 33, 50, 259])
    def test_any_number_of_units(self, H: int, rng: np.random.Generator) -> None:
        for weighted in (False, True):
            rows = [[1, 2, 3], [], [2, 1]]
            self.run(rows, rng, H=H, unique=True, compiled=False, weighted=weighted)

    def test_uint16_ids(self) -> None:
        table = np.zeros([40_001, 2], np.float32)
        table[[1, 40_000], [1, 0]] = 1
        ids = tf.constant([1, 40_000], tf.uint16)
        y = multi_hot_dense(table, ids, [0, 1, 2], implementation=self.implementation)
        np.testing.assert_array_equal(y, [[0, 1], [1, 0]])

    def test_sums_accumulate_in_float32(self) -> None:
        """A sum of ones in bfloat16 would stop at 256, in float16 at 2048."""
        for dtype, count in ((tf.bfloat16, 1_024), (tf.float16, 4_096)):
            ones = tf.ones([count, 1], dtype)
            ids, splits = tf.range(count), tf.constant([0, count])
            y, _ = value_and_gradient(
                self.implementation, True, ones, ids, splits, tf.ones([1, 1], dtype)
            )
            assert float(y[0, 0]) == count
            splits = tf.range(count + 1)
            _, dw = value_and_gradient(
                self.implementation, True, ones, tf.zeros([count], tf.int32), splits, ones
            )
            assert float(dw[0, 0]) == count

    @pytest.mark.parametrize("weighted", [False, True])
    def test_property(self, weighted: bool) -> None:
        """Any rows over a fixed capacity, garbage behind them, against the reference."""
        self.check_any_rows(weighted=weighted)

    def check_any_rows(
        self, rowids_dtype: tf.DType | None = None, *, weighted: bool = False
    ) -> None:
        capacity, B, V, H = 24, 6, 11, 3

        @hypothesis.given(
            st.lists(st.lists(st.integers(0, V - 1), max_size=4), min_size=B, max_size=B),
            st.integers(-(2**31), 2**31 - 1),
            st.integers(0, 2**32 - 1),
        )
        def check(rows: list[list[int]], garbage: int, seed: int) -> None:
            rng = np.random.default_rng(seed)
            ids = [i for row in rows for i in row]
            spare = capacity - len(ids)
            self.check(
                rng.normal(size=(V, H)),
                np.array(ids + [garbage] * spare),
                np.cumsum([0] + [len(row) for row in rows]),
                rng.normal(size=(B, H)),
                unique=False, dtype=tf.float32, compiled=True, rowids_dtype=rowids_dtype,
                weights=weights_of(ids, spare, rng) if weighted else None,
            )  # fmt: skip

        check()

    @pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
    def test_weights(self, compiled: bool, rng: np.random.Generator) -> None:
        """Weights of 1 count repeated ids, which `unique` does not change; the matrix has the same
        elements; and the gradient to the weights is right and nothing behind the last row."""
        ids, splits = [3, 1, 3, 3, 0, 1, 7, 7], [0, 4, 4, 6]
        table, dy = rng.normal(size=(11, 5)), rng.normal(size=(3, 5))

        def product(table: Tensor, weights: Tensor) -> Tensor:
            return multi_hot_dense(
                table, tf.constant(ids), tf.constant(splits),
                implementation=self.implementation, unique=True, weights=weights,
            )  # fmt: skip

        product = tf.function(product, jit_compile=True) if compiled else product
        ones = tf.ones([8])
        counts = np.zeros([3, 11])
        counts[[0, 0, 2, 2], [3, 1, 0, 1]] = 3, 1, 1, 1
        np.testing.assert_allclose(
            product(tf.constant(table, tf.float32), ones), counts @ table, rtol=1e-5, atol=1e-5
        )
        matrix = multi_hot(
            tf.constant(ids), tf.constant(splits), num_tokens=11, dtype=tf.float32, weights=ones
        )
        np.testing.assert_array_equal(matrix, counts)
        with tf.GradientTape() as tape:
            tape.watch(ones)
            y = product(tf.constant(table, tf.float32), 2 * ones)
        gradient = tape.gradient(y, ones, output_gradients=tf.constant(dy, tf.float32))
        wanted = [2 * table[ids[i]] @ dy[0 if i < 4 else 2] for i in range(6)]
        np.testing.assert_allclose(gradient, [*wanted, 0, 0], rtol=1e-5, atol=1e-5)

    def test_in_a_compiled_loop(self, rng: np.random.Generator) -> None:
        """Twenty steps of gradient descent in a tf.while_loop equal twenty steps in NumPy."""
        self.check_descent(rng, with_rowids=False)

    def check_descent(self, rng: np.random.Generator, *, with_rowids: bool) -> None:
        case = SMALL[0]
        sets = case.draw(int(rng.integers(2**32)))

        @tf.function(jit_compile=True)
        def descend(table: Tensor, values: Tensor, row_splits: Tensor) -> Tensor:
            rowids = None
            if with_rowids:  # found outside of the loop, which is what they are for
                rowids = rowids_of_splits(tf.cast(row_splits, tf.int32)[None], len(sets.values))[0]
            for _ in tf.range(20):
                with tf.GradientTape() as tape:
                    tape.watch(table)
                    y = multi_hot_dense(
                        table, values, row_splits, implementation=self.implementation,
                        unique=case.unique, value_rowids=rowids,
                    )  # fmt: skip
                    loss = tf.reduce_sum(y * y) / 2
                table -= 0.001 * tape.gradient(loss, table)
            return table

        got = descend(*map(tf.constant, (sets.table, sets.values, sets.row_splits)))
        matrix = reference.multi_hot(sets.values, sets.row_splits, num_tokens=case.num_tokens)
        wanted = sets.table.astype(np.float64)
        for _ in range(20):
            wanted -= 0.001 * matrix.T @ (matrix @ wanted)
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize(
        ("values", "row_splits", "message"),
        [
            ([1, 11], [0, 2], r"row 0 holds token id 11 .*\[0, 11\)"),
            ([1, 2, -1], [0, 2, 3], "row 1 holds token id -1"),
            ([2**31 - 1], [0, 1], "2147483647"),
            ([1, 2], [0, 3], "row_splits"),
            ([1, 2], [0, 2, 1], "row_splits"),
            ([1, 2], [1, 2], "row_splits"),
            ([1, 2], [-1, 2], "row_splits"),
            ([1, 2], [0, 2**40], "row_splits"),
            ([1, 2], [0, -(2**63), 2], "row_splits"),
            ([1, 2], [0, 2**63 - 1, 2], "row_splits"),
            ([], [0, 1], "row_splits"),
        ],
        ids=str,
    )
    def test_wrong_data_raises(
        self, values: list[int], row_splits: list[int], message: str
    ) -> None:
        table, dy = tf.ones([11, 3]), tf.ones([len(row_splits) - 1, 3])
        values = tf.constant(values, tf.int32)
        weights = tf.ones_like(values, tf.float32)
        kinds = [(tf.int64, None), (tf.int64, weights)]
        if all(abs(split) < 2**31 for split in row_splits):
            kinds.append((tf.int32, None))
        for splits_dtype, own in kinds:
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                value_and_gradient(
                    self.implementation, False, table, values,
                    tf.constant(row_splits, splits_dtype), dy, None, own,
                )  # fmt: skip


class MultiHotContract(ProductContract, RowsContract):
    """Subclass with the implementation's name; pytest collects the rest."""
