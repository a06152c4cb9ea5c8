"""What one call computes, checked: the shapes and types that can be judged without reading data.

Shapes: B rows, V num_tokens, H units, N values (capacity; nnz = row_splits[-1] of them count).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

Tensor = Any

_FLOATS = (tf.float32, tf.bfloat16, tf.float16)


class Problem(NamedTuple):
    """The sets of one batch, and the table they are multiplied with."""

    values: Tensor  # [N] int32
    row_splits: Tensor  # [B + 1] int32 or int64
    num_tokens: int  # V
    dtype: tf.DType  # of table and result; sums are float32 whatever it is
    unique: bool  # the caller's promise that no row holds an id twice
    halves: bool = False  # the gradient's sums are of two halves of the batch


def check_table(table: Tensor) -> Tensor:
    """Return `table` as a tensor.

    Raises:
      ValueError: not [num_tokens, units] of a static shape, or not a supported float.
    """
    table = tf.convert_to_tensor(table)
    shape = table.shape.as_list() if table.shape.rank is not None else None
    if shape is None or len(shape) != 2 or any(not size for size in shape):
        raise ValueError(
            f"the table must be [num_tokens, units], known and not empty; got shape {table.shape}"
        )
    check_dtype(table.dtype)
    return table


def check_dtype(dtype: Any) -> tf.DType:
    """Return `dtype` as a TensorFlow type, or raise ValueError if it is not supported."""
    dtype = tf.as_dtype(dtype)
    if dtype not in _FLOATS:
        names = ", ".join(known.name for known in _FLOATS)
        raise ValueError(f"the multi-hot product is defined for {names}; got {dtype.name}")
    return dtype


def check_sets(values: Tensor, row_splits: Tensor) -> tuple[Tensor, Tensor]:
    """Return `values` as [N] int32 and `row_splits` as [B + 1] int32 or int64 tensors.

    Raises:
      ValueError: another rank or type. int64 ids are refused because narrowing them could turn
        one token into another.
    """
    values = tf.convert_to_tensor(values)
    row_splits = tf.convert_to_tensor(row_splits)
    if values.dtype == tf.uint16:
        values = tf.cast(values, tf.int32)
    if values.dtype != tf.int32 or values.shape.rank != 1:
        raise ValueError(
            "values must be a vector of int32 or uint16 token ids; got "
            f"{values.dtype.name} of shape {values.shape}: cast ids that are known to fit"
        )
    if row_splits.dtype not in (tf.int32, tf.int64) or row_splits.shape.rank != 1:
        raise ValueError(
            "row_splits must be a vector of int32 or int64; got "
            f"{row_splits.dtype.name} of shape {row_splits.shape}"
        )
    if row_splits.shape[0] == 0:
        raise ValueError("row_splits must hold rows + 1 positions, at least [0]; got none")
    return values, row_splits
