"""The native kernels as an implementation: custom calls inside the compiled program.

Shapes: B rows, V num_tokens, H units, N values; R resident rows, M their ids, C a batch's capacity.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla

from kernels.multi_hot.native.library import load
from kernels.multi_hot.registry import Problem, Product

Tensor = Any

_MAX_CHUNKS = 8
_INDEX_SLACK = 8
"""TransposedIndex::kSlack. The kernel checks this constant and the next."""
_MAX_CHUNK_ROWS = 2**16
_MLIR_TYPES = {
    tf.float32: "f32",
    tf.uint16: "ui16",
    tf.uint32: "ui32",
    tf.int32: "i32",
    tf.int64: "i64",
}
_STABLEHLO_VERSION = 9


def _index(problem: Problem) -> Problem:
    """Return the sets as the kernels read them, each of which builds what it needs from them."""
    for name, vector in (("values", problem.values), ("row_splits", problem.row_splits)):
        if vector.shape[0] is None:
            raise ValueError(
                f"the native kernels need static shapes, and the length of {name} is unknown: "
                "trace the function with its real shape, or use the implementation 'gather'"
            )
    load()
    return problem._replace(row_splits=tf.cast(problem.row_splits, tf.int64))


# The kernels are float32's: 16 bits save a CPU hardly any time.
def _forward(table: Tensor, problem: Problem) -> Tensor:
    y = tf.TensorSpec([problem.row_splits.shape[0] - 1, table.shape[1]], tf.float32)
    operands = [tf.cast(table, tf.float32), problem.values, problem.row_splits]
    if problem.weights is not None:
        operands.append(problem.weights)
        (sums,) = _custom_call("multi_hot_weighted_forward", operands, [y])
    else:
        (sums,) = _custom_call("multi_hot_forward", operands, [y], unique=problem.unique)
    return tf.cast(sums, table.dtype)


def _backward(dy: Tensor, problem: Problem) -> Tensor:
    V, N = problem.num_tokens, problem.values.shape[0]
    # Counting in parallel costs V per chunk, so it has to have some values to count.
    num_chunks = max(1, min(_MAX_CHUNKS, os.cpu_count() or 1, N // V))
    num_chunks = max(num_chunks, -(-dy.shape[0] // _MAX_CHUNK_ROWS))
    dw = tf.TensorSpec([V, dy.shape[1]], tf.float32)
    index = [
        tf.TensorSpec([num_chunks, V], tf.int32),
        tf.TensorSpec([N + _INDEX_SLACK], tf.uint16),
    ]
    operands = [tf.cast(dy, tf.float32), problem.values, problem.row_splits]
    if problem.weights is not None:
        operands.append(problem.weights)
        index.append(tf.TensorSpec([N], tf.float32))
        (sums,) = _custom_call("multi_hot_weighted_backward", operands, [dw], index)
    else:
        (sums,) = _custom_call("multi_hot_backward", operands, [dw], index, unique=problem.unique)
    return tf.cast(sums, dy.dtype)


def take_rows(
    values: Tensor,
    row_splits: Tensor,
    rows: Tensor,
    *,
    capacity: int,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Copy one batch from resident sets, inside a compiled program on a CPU.

    Args:
      values: [M] uint16 or uint32 token ids, below 2^31; of a static shape.
      row_splits: [R + 1] int32 or int64, of a static shape.
      rows: [B] int32 in [0, R), of a static shape.
      capacity: C, the static length of the batch's values.
      weights: [M] float32, of the ids.

    Returns:
      values [C] int32: the rows' ids one after another, then zeros; row_splits [B + 1] int32; and
      weights [C] float32 likewise, None where the sets have none.

    Raises:
      NativeUnavailableError: the kernels cannot be built or loaded here.
      tf.errors.InvalidArgumentError: a row that does not exist, or more ids than C.
    """
    load()
    results = [tf.TensorSpec([capacity], tf.int32), tf.TensorSpec([rows.shape[0] + 1], tf.int32)]
    operands = [values, tf.cast(row_splits, tf.int64), rows]
    if weights is None:
        taken, splits = _custom_call("multi_hot_take_rows", operands, results)
        return taken, splits, None
    operands.append(weights)
    results.append(tf.TensorSpec([capacity], tf.float32))
    taken, splits, own = _custom_call("multi_hot_take_weighted_rows", operands, results)
    return taken, splits, own


def _custom_call(
    target: str,
    operands: Sequence[Tensor],
    results: Sequence[tf.TensorSpec],
    workspace: Sequence[tf.TensorSpec] = (),
    **attributes: bool,
) -> list[Tensor]:
    """Return the results of the kernel registered as `target`, called by StableHLO text.

    Args:
      target: its name.
      operands: tensors of static shapes.
      results: shape and dtype of each result.
      workspace: the same for what the kernel writes besides, in memory that XLA plans.
      attributes: of the call.
    """
    written = [*results, *workspace]
    names = [f"%a{i}" for i in range(len(operands))]
    types = [_mlir_type(operand) for operand in operands]
    declared = ", ".join(f"{name}: {type_}" for name, type_ in zip(names, types, strict=True))
    result_types = ", ".join(map(_mlir_type, results))
    returned = ", ".join(f"%0#{i}" for i in range(len(results)))
    config = ", ".join(f"{name} = {str(value).lower()}" for name, value in attributes.items())
    # The location is what XLA calls the instruction, and so what a profile shows.
    module = f"""
        module @{target} {{
          func.func public @main({declared}) -> ({result_types}) {{
            %0:{len(written)} = stablehlo.custom_call @{target}({", ".join(names)}) {{
              api_version = 4 : i32, backend_config = {{{config}}}
            }} : ({", ".join(types)}) -> ({", ".join(map(_mlir_type, written))}) loc("{target}")
            return {returned} : {result_types}
          }}
        }}"""
    return tf_xla.call_module(
        list(operands),
        version=_STABLEHLO_VERSION,
        module=module,
        Tout=[result.dtype for result in results],
        Sout=[result.shape for result in results],
        platforms=("CPU",),
    )


def _mlir_type(tensor: Any) -> str:
    sizes = "".join(f"{size}x" for size in tensor.shape)
    return f"tensor<{sizes}{_MLIR_TYPES[tensor.dtype]}>"


PRODUCT = Product(
    index=_index,
    forward=_forward,
    backward=_backward,
    device_types=("CPU",),
    takes_rowids=False,
    prepare=lambda: load().name,
)
