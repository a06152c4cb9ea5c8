"""The multi-hot product and its gradient in NumPy float64, as obvious as it can be.

The truth that every implementation is held against; used by tests only.
"""

import numpy as np
from numpy.typing import NDArray


def multi_hot(
    values: NDArray[np.integer],
    row_splits: NDArray[np.integer],
    *,
    num_tokens: int,
    weights: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Return [rows, num_tokens] float64: 1 where the id is in the row's set; with weights
    [values], the sum of those that the row gives to the id."""
    num_rows = len(row_splits) - 1
    matrix = np.zeros((num_rows, num_tokens))
    for row in range(num_rows):
        for place in range(row_splits[row], row_splits[row + 1]):
            token_id = values[place]
            assert 0 <= token_id < num_tokens
            if weights is None:
                matrix[row, token_id] = 1.0
            else:
                matrix[row, token_id] += weights[place]
    return matrix


def multi_hot_dense(
    table: NDArray[np.floating],
    values: NDArray[np.integer],
    row_splits: NDArray[np.integer],
    weights: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Return y [rows, units] float64: the multi-hot matrix times the table [num_tokens, units]."""
    matrix = multi_hot(values, row_splits, num_tokens=len(table), weights=weights)
    return matrix @ table.astype(np.float64)


def table_gradient(
    dy: NDArray[np.floating],
    values: NDArray[np.integer],
    row_splits: NDArray[np.integer],
    *,
    num_tokens: int,
    weights: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Return dW [num_tokens, units] float64 of y = M W: M^T times dy [rows, units]."""
    matrix = multi_hot(values, row_splits, num_tokens=num_tokens, weights=weights)
    return matrix.T @ dy.astype(np.float64)
