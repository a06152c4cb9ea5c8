"""The public op: checks, and dispatch over the named implementations.

Shapes: B rows, V num_tokens, H units, N values (capacity; nnz = row_splits[-1] of them count).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from kernels.multi_hot import dense, gather
from kernels.multi_hot.gradient import Product, differentiable
from kernels.multi_hot.native import product as native
from kernels.multi_hot.problem import Problem, check_dtype, check_sets, check_table

Tensor = Any
Implementation = Literal["dense", "gather", "native"]

IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)

_PRODUCTS: dict[str, Product] = {"dense": dense, "gather": gather, "native": native}


def multi_hot_dense(
    table: Tensor,
    values: Tensor,
    row_splits: Tensor,
    *,
    implementation: Implementation,
    unique: bool = False,
    halves: bool = False,
) -> Tensor:
    """Return, for each row, the sum of the table's rows over the row's set of ids.

    `y[b, :] = sum over j in set(row b) of table[j, :]`: the multi-hot matrix times the table. An
    id that a row holds twice counts once. Differentiable with respect to `table`; works eagerly,
    in tf.function and under jit_compile. Sums, also the gradient's, accumulate in float32.

    Args:
      table: [V, H] float32, bfloat16 or float16, of a static shape.
      values: [N] int32 (or uint16) token ids in [0, V). What lies at or behind `row_splits[-1]`
        is ignored, whatever it is.
      row_splits: [B + 1] int32 or int64, from 0, never decreasing, ending at or before N.
      implementation: one of IMPLEMENTATIONS.
      unique: the caller's promise that no row holds an id twice, which saves looking for them.
      halves: the gradient is the sum of the gradients of both halves of the batch, and so has the
        bits that two devices with a half each come to. For `native` and an even B alone.

    Returns:
      [B, H] in the table's dtype. Where the splits or the ids of the rows break the contract
      inside a compiled program of `dense` or `gather`, which cannot raise, every element is NaN.

    Raises:
      ValueError: wrong types or shapes, or an unknown implementation; its subclass
        NativeUnavailableError where `native` cannot be had.
      tf.errors.InvalidArgumentError: wrong splits or ids; from compiled programs only `native`.
    """
    if implementation not in _PRODUCTS:
        raise ValueError(
            f"unknown implementation {implementation!r}: choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    table = check_table(table)
    values, row_splits = check_sets(values, row_splits)
    if halves and (implementation != "native" or (row_splits.shape[0] or 0) % 2 == 0):
        raise ValueError(
            f"halves is for native and an even number of rows; got {implementation} and row_splits "
            f"of shape {row_splits.shape}"
        )
    problem = Problem(values, row_splits, table.shape[0], table.dtype, unique, halves)
    return differentiable(_PRODUCTS[implementation], table, problem)


def multi_hot(values: Tensor, row_splits: Tensor, *, num_tokens: int, dtype: Any) -> Tensor:
    """Return the multi-hot matrix [B, num_tokens]: 1 where the id is in the row's set.

    Built on the device; a constant of the ids, so no gradient flows into it. Arguments, behaviour
    on wrong input and errors as for `multi_hot_dense`; `dtype` is one of the table's types.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1; got {num_tokens}")
    values, row_splits = check_sets(values, row_splits)
    return dense.index(Problem(values, row_splits, num_tokens, check_dtype(dtype), unique=False))
