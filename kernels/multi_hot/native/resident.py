"""The native kernel behind `take_rows`.

Shapes: R rows of the resident sets, M their ids, B rows of a batch, C its capacity.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kernels.multi_hot.native.custom_call import custom_call
from kernels.multi_hot.native.library import load

Tensor = Any


def take_rows(
    values: Tensor, row_splits: Tensor, rows: Tensor, *, capacity: int
) -> tuple[Tensor, Tensor]:
    """Return values [C] int32 and row_splits [B + 1] int32; see `kernels.multi_hot.resident`.

    Raises:
      NativeUnavailableError: the kernels cannot be built or loaded here.
    """
    load()
    results = (
        tf.TensorSpec([capacity], tf.int32),
        tf.TensorSpec([rows.shape[0] + 1], tf.int32),
    )
    taken, splits = custom_call("multi_hot_take_rows", (values, row_splits, rows), results)
    return taken, splits
