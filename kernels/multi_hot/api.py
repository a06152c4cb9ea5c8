"""The public operations: they check what needs no data, and call the named implementation.

Shapes: B rows, V num_tokens, H units, N values (capacity; nnz = row_splits[-1] of them count).
"""

from typing import Any

import tensorflow as tf

from kernels.multi_hot import dense, registry
from kernels.multi_hot.registry import BatchRef, Implementation, Problem, Product, Tensor
from kernels.multi_hot.segments import find_entries, for_sums
from kernels.multi_hot.table_rules import Touched

_FLOATS = (tf.float32, tf.bfloat16, tf.float16, tf.float64)


def multi_hot_dense(
    table: Tensor,
    values: Tensor,
    row_splits: Tensor,
    *,
    implementation: Implementation,
    unique: bool = False,
    weights: Tensor | None = None,
    value_rowids: Tensor | None = None,
    group: BatchRef | None = None,
    dtype: Any = None,
) -> Tensor:
    """Return, for each row, the sum of the table's rows over the row's set of ids.

    `y[b, :] = sum over j in set(row b) of table[j, :]`: the multi-hot matrix times the table. An
    id that a row holds twice counts once. With weights, each summand is multiplied by the sum of
    the weights that row b gives to id j, so that repeated ids add up. The product is differentiable
    with respect to `table` and `weights`, and works eagerly, in tf.function and under jit_compile.
    Sums accumulate in float32, or in float64 for a float64 table.

    Args:
      table: [V, H] float32, bfloat16, float16 or float64, of a static shape.
      values: [N] int32 (or uint16) token ids in [0, V). Values from `row_splits[-1]` on are
        ignored, whatever they are.
      row_splits: [B + 1] int32 or int64, from 0, never decreasing, ending at or before N.
      implementation: one of IMPLEMENTATIONS.
      unique: the caller's promise that no row holds an id twice, which saves a search for repeated
        ids. With weights there is no search, and the promise changes nothing.
      weights: [N] float32, one for each of `values`, and ignored where these are. None: the 0/1
        matrix.
      value_rowids: [N] int32 or uint16, the row of each value: in [0, B), never decreasing, and B
        behind the last row. It saves deriving the rows from `row_splits`, which is then not
        checked. For compiled programs of static shapes, and implementations for which
        `takes_rowids` is true.
      group: several batches in a GPU's memory, one of which is that of `values`, `row_splits` and
        `weights`. For compiled programs: `native` reads the sets there, which saves a copy; others
        ignore it.
      dtype: the result's dtype; None means the table's.

    Returns:
      [B, H] in that dtype. A compiled program of XLA operations cannot raise: if splits or ids are
      wrong, `dense` and `gather` return NaN in every element; with `value_rowids`, only in the rows
      that hold wrong ids.

    Raises:
      ValueError: for wrong types or shapes, an unknown implementation, or `native` with a float64
        table; its subclass UnavailableError if the implementation cannot be used on this machine.
      tf.errors.InvalidArgumentError: for wrong splits or ids; in compiled programs only by
        `native`.
    """
    table = tf.convert_to_tensor(table)
    shape = table.shape.as_list() if table.shape.rank is not None else None
    if shape is None or len(shape) != 2 or any(not size for size in shape):
        raise ValueError(
            f"the table must be [num_tokens, units], known and not empty; got shape {table.shape}"
        )
    _check_dtype(table.dtype)
    if table.dtype == tf.float64 and implementation == "native":
        raise ValueError("native does not compute in float64: choose gather or dense")
    dtype = _check_dtype(dtype or table.dtype)
    product, problem = _checked(
        values, row_splits, num_tokens=table.shape[0], implementation=implementation,
        unique=unique, weights=weights, value_rowids=value_rowids,
    )  # fmt: skip
    if problem.weights is not None:
        problem = problem._replace(weights=tf.cast(problem.weights, for_sums(table).dtype))
    problem = problem._replace(dtype=table.dtype, result=dtype, group=group)
    return _differentiable(product, table, problem, dtype)


def multi_hot(
    values: Tensor,
    row_splits: Tensor,
    *,
    num_tokens: int,
    dtype: Any,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the multi-hot matrix [B, num_tokens]. An element is 1 if the id is in the row's set,
    else 0; with weights, it is the sum of the weights that the row gives to the id.

    The matrix is built on the device. It is constant in the ids, so a gradient flows only into
    weights. Arguments, behaviour on wrong input and errors are as for `multi_hot_dense`; `dtype` is
    one of the table's types.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1; got {num_tokens}")
    dtype = _check_dtype(dtype)
    _, problem = _checked(
        values, row_splits, num_tokens=num_tokens, implementation="dense", weights=weights
    )
    return tf.cast(dense.index(problem._replace(dtype=dtype)), dtype)


def table_gradient(dy: Tensor, values: Tensor, row_splits: Tensor, **how: Any) -> Tensor:
    """Return the gradient of `multi_hot_dense` to the table, float32 [num_tokens, H], for callers
    whose dy [B, H] does not come from a tape. Other arguments and errors are as in
    `touched_rows`."""
    product, problem = _checked(values, row_splits, **how)
    return product.backward(tf.cast(dy, tf.float32), product.index(problem))


def touched_rows(
    values: Tensor, row_splits: Tensor, *, group: BatchRef | None = None, **how: Any
) -> Touched:
    """Return the rows of a table that a batch touches, for the implementation's `row_gradients` and
    `update`. `how` is `num_tokens`, V, and what `multi_hot_dense` takes, with the same errors."""
    product, problem = _checked(values, row_splits, **how)
    touched: Touched = product.touch(problem._replace(group=group))
    return touched


def _checked(
    values: Tensor,
    row_splits: Tensor,
    *,
    num_tokens: int,
    implementation: Implementation,
    unique: bool = False,
    weights: Tensor | None = None,
    value_rowids: Tensor | None = None,
) -> tuple[Product, Problem]:
    values, row_splits = _check_sets(values, row_splits)
    product = registry.product(implementation)
    weights = None if weights is None else _check_weights(weights, values)
    rowids = None if value_rowids is None else _widen(value_rowids)
    if rowids is not None and not product.takes_rowids:
        raise ValueError(
            f"{implementation} reads row_splits and takes no value_rowids: leave them out"
        )
    return product, Problem(values, row_splits, num_tokens, tf.float32, unique, rowids, weights)


def _differentiable(product: Product, table: Tensor, problem: Problem, dtype: Any) -> Tensor:
    """Return y [B, H] in a dtype, with `product.backward` as its gradient to the table: for y = M W
    with the multi-hot matrix M, dW = M^T dy."""
    operands = [table]
    if problem.weights is not None:
        operands.append(problem.weights)
        problem = problem._replace(weights=tf.stop_gradient(problem.weights))
    # The scopes name the operations in a profile; the gradient's would otherwise be in no scope.
    with tf.name_scope("multi_hot_index"):
        index = product.index(problem)

    @tf.custom_gradient
    def bound(table: Tensor, *weights: Tensor) -> Any:
        def gradient(dy: Tensor) -> Any:
            with tf.name_scope("multi_hot_backward"):
                dw = tf.cast(product.backward(dy, index), table.dtype)
            # A compiler removes the second gradient if it is unused, as in training.
            return (dw, _weights_gradient(table, dy, problem)) if weights else dw

        with tf.name_scope("multi_hot_forward"):
            # Without the stop, an eager tape would also record what happens inside forward.
            return tf.cast(product.forward(tf.stop_gradient(table), index), dtype), gradient

    return bound(*operands)


def _weights_gradient(table: Tensor, dy: Tensor, problem: Problem) -> Tensor:
    """Return the product of each entry's row of the table and its row of dy, [N]."""
    entries = find_entries(problem, drop_repeated=False)
    table, dy = for_sums(table), tf.pad(tf.cast(dy, for_sums(table).dtype), [[0, 1], [0, 0]])
    products = tf.gather(table, entries.ids) * tf.gather(dy, entries.rows)
    return tf.where(entries.counts, tf.reduce_sum(products, axis=1), 0.0)


def _check_dtype(dtype: Any) -> tf.DType:
    dtype = tf.as_dtype(dtype)
    if dtype not in _FLOATS:
        names = ", ".join(known.name for known in _FLOATS)
        raise ValueError(f"the multi-hot product is defined for {names}; got {dtype.name}")
    return dtype


def _check_sets(values: Tensor, row_splits: Tensor) -> tuple[Tensor, Tensor]:
    """Return `values` as [N] int32 and `row_splits` as [B + 1] int32 or int64 tensors. int64 ids
    are refused because narrowing them could turn one token into another."""
    values, row_splits = _widen(values), tf.convert_to_tensor(row_splits)
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


def _check_weights(weights: Tensor, values: Tensor) -> Tensor:
    weights = tf.convert_to_tensor(weights)
    if weights.dtype != tf.float32 or not weights.shape.is_compatible_with(values.shape):
        raise ValueError(
            f"weights must be float32, one for each of the values, {values.shape}; got "
            f"{weights.dtype.name} of shape {weights.shape}"
        )
    message = "weights must be one for each of the values"  # a single one would be broadcast
    tf.debugging.assert_equal(tf.size(weights), tf.size(values), message)
    return weights


def _widen(vector: Tensor) -> Tensor:
    vector = tf.convert_to_tensor(vector)
    return tf.cast(vector, tf.int32) if vector.dtype == tf.uint16 else vector
