"""The public op's own job: checks and dispatch. What it computes is the contract's business."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels.multi_hot import (
    IMPLEMENTATIONS,
    Implementation,
    multi_hot,
    multi_hot_dense,
)

FITTING: dict[str, Any] = {
    "table": np.ones([4, 2], np.float32),
    "values": np.array([1, 2, 3], np.int32),
    "row_splits": np.array([0, 1, 3]),
    "implementation": "gather",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"implementation": "quick"},
            f"unknown implementation 'quick': choose one of {', '.join(IMPLEMENTATIONS)}",
        ),
        ({"table": np.ones([4, 2], int)}, "float32, bfloat16, float16, float64; got int64"),
        (
            {"table": np.ones([4, 2]), "implementation": "native"},
            "native does not compute in float64: choose gather or dense",
        ),
        ({"table": np.ones([4], np.float32)}, r"\[num_tokens, units\].*\(4,\)"),
        ({"values": np.array([1, 2, 3])}, "int32 or uint16 token ids; got int64"),
        ({"values": np.array([[1, 2, 3]], np.int32)}, r"shape \(1, 3\)"),
        ({"row_splits": np.array([0.0, 3.0])}, "int32 or int64; got float64"),
        ({"weights": np.ones(3)}, r"weights must be float32, .*, \(3,\); got float64"),
        (
            {"implementation": "native", "value_rowids": np.array([0, 1, 1], np.int32)},
            "native reads row_splits and takes no value_rowids: leave them out",
        ),
    ],
    ids=lambda part: str(part)[:40],
)
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    arguments = FITTING | change
    table, values, row_splits = (arguments.pop(name) for name in ("table", "values", "row_splits"))
    with pytest.raises(ValueError, match=message):
        multi_hot_dense(table, values, row_splits, **arguments)


@pytest.mark.parametrize(
    ("compiled", "dtype"), [(False, tf.float32), (True, tf.bfloat16), (True, tf.float16)]
)
def test_matrix(compiled: bool, dtype: tf.DType) -> None:
    def build(values: Any, row_splits: Any) -> Any:
        return multi_hot(values, row_splits, num_tokens=4, dtype=dtype)

    build = tf.function(build, jit_compile=True) if compiled else build
    matrix = build(tf.constant([3, 1, 3, 0, -7]), tf.constant([0, 3, 3, 4]))
    assert matrix.dtype == dtype
    np.testing.assert_array_equal(
        tf.cast(matrix, tf.int32), [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    )


def test_matrix_of_wrong_data() -> None:
    values, row_splits = tf.constant([4]), tf.constant([0, 1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="row 0 holds token id 4"):
        multi_hot(values, row_splits, num_tokens=4, dtype=tf.float32)
    with pytest.raises(ValueError, match="num_tokens must be at least 1; got 0"):
        multi_hot(values, row_splits, num_tokens=0, dtype=tf.float32)
    with pytest.raises(ValueError, match="got int32"):
        multi_hot(values, row_splits, num_tokens=4, dtype=tf.int32)


@pytest.mark.parametrize("implementation", ["dense", "gather"])
def test_graph_of_unknown_sizes(implementation: Implementation) -> None:
    """Outside XLA, as in a saved model: any number of rows and values; wrong data raises there."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int64)])
    def product(values: Any, row_splits: Any) -> Any:
        y = multi_hot_dense(FITTING["table"], values, row_splits, implementation=implementation)
        assert y.shape.as_list() == [None, 2]
        return y

    np.testing.assert_array_equal(product([1, 1, 2], [0, 3]), [[2, 2]])
    np.testing.assert_array_equal(product([1, 2], [0, 1, 1, 2]), [[1, 1], [0, 0], [1, 1]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds token id"):
        product([1, 4], [0, 2])

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None], tf.float32),
        ]
    )
    def weighted(values: Any, row_splits: Any, weights: Any) -> Any:
        return multi_hot_dense(
            FITTING["table"], values, row_splits, implementation=implementation, weights=weights
        )

    np.testing.assert_array_equal(weighted([1, 1, 2], [0, 2, 3], [1, 2, -1]), [[3, 3], [-1, -1]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="one for each"):
        weighted([1, 1, 2], [0, 2, 3], [1])  # not one weight for all
