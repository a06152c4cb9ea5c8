"""The part of the contract on every implementation's gradients by touched rows.

B rows, V num_tokens, H units, N values.
"""

from typing import Any, ClassVar

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from kernels.multi_hot import Implementation, table_gradient
from kernels.multi_hot.registry import Tensor
from tests.kernels.multi_hot import reference
from tests.kernels.multi_hot.cases import SMALL, Case
from tests.kernels.multi_hot.checks import assert_close, row_gradients, weights_of


class RowsContract:
    """The tests of gradients by touched rows, which `contract.MultiHotContract` includes."""

    implementation: ClassVar[Implementation]

    @pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
    def test_gradients_of_the_touched_rows(self, case: Case, rng: np.random.Generator) -> None:
        """Each row of the gradient is there once, and rows that are left out are zero."""
        sets = case.draw(int(rng.integers(2**32)))
        cases = [(True, tf.float32), (False, tf.bfloat16)]
        for compiled, dtype in cases if case in SMALL[:2] else cases[:1]:
            dy = tf.constant(sets.dy, dtype)
            self.check_rows(
                tf.function(row_gradients, jit_compile=True) if compiled else row_gradients,
                dy, sets.values, sets.row_splits, num_tokens=case.num_tokens,
                unique=case.unique, weights=sets.weights,
            )  # fmt: skip

    @pytest.mark.parametrize("weighted", [False, True])
    def test_touched_rows_of_any_batch(self, weighted: bool) -> None:
        """Any rows over a fixed capacity, garbage behind them, with ids that repeat."""
        capacity, B, V = 24, 6, 11
        function = tf.function(row_gradients, jit_compile=True)

        @hypothesis.given(
            st.lists(st.lists(st.integers(0, V - 1), max_size=4), min_size=B, max_size=B),
            st.integers(-(2**31), 2**31 - 1),
            st.integers(0, 2**32 - 1),
        )
        def check(rows: list[list[int]], garbage: int, seed: int) -> None:
            rng = np.random.default_rng(seed)
            ids = [i for row in rows for i in row]
            spare = capacity - len(ids)
            self.check_rows(
                function,
                tf.constant(rng.normal(size=(B, 3)), tf.float32),
                np.array(ids + [garbage] * spare),
                np.cumsum([0] + [len(row) for row in rows]),
                num_tokens=V,
                weights=weights_of(ids, spare, rng) if weighted else None,
            )

        check()

    def check_rows(
        self,
        function: Any,
        dy: Tensor,
        values: np.ndarray,
        row_splits: np.ndarray,
        *,
        num_tokens: int,
        unique: bool = False,
        weights: np.ndarray | None = None,
    ) -> None:
        ids, rows = function(
            dy, tf.constant(values, tf.int32), tf.constant(row_splits, tf.int64),
            num_tokens=num_tokens, implementation=self.implementation, unique=unique,
            weights=None if weights is None else tf.constant(weights, tf.float32),
        )  # fmt: skip
        ids, rows = ids.numpy(), rows.numpy()
        assert len(ids) == min(len(values), num_tokens)
        num = int((ids >= 0).sum())
        assert (ids[num:] == -1).all()
        assert not rows[num:].any()
        assert sorted(ids[:num]) == sorted(set(values[: row_splits[-1]]))
        gradient = np.zeros((num_tokens, dy.shape[1]), np.float32)
        gradient[ids[:num]] = rows[:num]
        whole = table_gradient(
            dy, tf.constant(values, tf.int32), tf.constant(row_splits, tf.int64),
            num_tokens=num_tokens, implementation=self.implementation, unique=unique,
            weights=None if weights is None else tf.constant(weights, tf.float32),
        )  # fmt: skip
        assert whole.dtype == tf.float32
        dy = tf.cast(dy, tf.float64).numpy()
        options = {"num_tokens": num_tokens, "weights": weights}
        wanted = reference.table_gradient(dy, values, row_splits, **options)
        if weights is not None:
            options["weights"] = np.abs(weights)
        size = reference.table_gradient(np.abs(dy), values, row_splits, **options)
        assert_close(tf.constant(gradient), wanted, size)
        assert_close(whole, wanted, size)
