"""Common parts of custom calls of the native kernels: checks, and StableHLO's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from kernels.multi_hot.cuda.library import offer_cuda
from kernels.multi_hot.native.library import load
from kernels.multi_hot.registry import Problem

Tensor = Any

_MLIR_TYPES = {
    tf.float32: "f32",
    tf.float64: "f64",
    tf.bfloat16: "bf16",
    tf.float16: "f16",
    tf.uint16: "ui16",
    tf.uint32: "ui32",
    tf.int32: "i32",
    tf.int64: "i64",
}
STABLEHLO_VERSION = 9


def checked(problem: Problem) -> Problem:
    """Check that the sets have static shapes, and load the kernels; return the sets."""
    for name, vector in (("values", problem.values), ("row_splits", problem.row_splits)):
        if vector.shape[0] is None:
            raise ValueError(
                f"the native kernels need static shapes, and the length of {name} is unknown: "
                "trace the function with its real shape, or use the implementation 'gather'"
            )
    load()
    offer_cuda()
    return problem


def attributes(options: Mapping[str, bool | int | float]) -> str:
    """Return a call's attributes in StableHLO's text."""
    return ", ".join(f"{name} = {_mlir_value(value)}" for name, value in options.items())


def aliases(num_operands: int, num_written: int, in_place: int) -> str:
    """Return StableHLO's text that the first results are in the last operands' memory.

    Args:
      num_operands: number of the call's operands.
      num_written: number of its results and workspace arrays.
      in_place: number of results in operands' memory.
    """
    parts = [
        f"#stablehlo.output_operand_alias<output_tuple_indices = [{i if num_written > 1 else ''}], "
        f"operand_index = {num_operands - in_place + i}, operand_tuple_indices = []>"
        for i in range(in_place)
    ]
    return f"[{', '.join(parts)}]"


def layouts(tensors: Sequence[Any]) -> str:
    """Return the row-major layouts of tensors in StableHLO's text. Without them, XLA may choose
    other layouts for a call's operands and results."""
    parts = []
    for tensor in tensors:
        rank = len(tensor.shape)
        parts.append(f"dense<{[*reversed(range(rank))]}> : tensor<{rank}xindex>")
    return f"[{', '.join(parts)}]"


def _mlir_value(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value} : i64" if isinstance(value, int) else f"{value:.9e} : f32"


def mlir_type(tensor: Any) -> str:
    """Return the type of a tensor of static shape in StableHLO's text."""
    sizes = "".join(f"{size}x" for size in tensor.shape)
    return f"tensor<{sizes}{_MLIR_TYPES[tensor.dtype]}>"
