"""A native kernel as a custom call inside the compiled program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla

from kernels.multi_hot.cuda.library import offer_cuda
from kernels.multi_hot.native.library import load
from kernels.multi_hot.registry import Problem

Tensor = Any

_MLIR_TYPES = {
    tf.float32: "f32",
    tf.bfloat16: "bf16",
    tf.float16: "f16",
    tf.uint16: "ui16",
    tf.uint32: "ui32",
    tf.int32: "i32",
    tf.int64: "i64",
}
STABLEHLO_VERSION = 9


def checked(problem: Problem) -> Problem:
    """Return the sets, of static shapes, for kernels that are loaded."""
    for name, vector in (("values", problem.values), ("row_splits", problem.row_splits)):
        if vector.shape[0] is None:
            raise ValueError(
                f"the native kernels need static shapes, and the length of {name} is unknown: "
                "trace the function with its real shape, or use the implementation 'gather'"
            )
    load()
    offer_cuda()
    return problem


def custom_call(
    target: str,
    operands: Sequence[Tensor],
    results: Sequence[tf.TensorSpec],
    workspace: Sequence[tf.TensorSpec] = (),
    *,
    in_place: int = 0,
    **options: bool | int | float,
) -> list[Tensor]:
    """Return the results of the kernel registered as `target`, called by StableHLO text.

    Args:
      target: its name.
      operands: tensors of static shapes.
      results: shape and dtype of each result.
      workspace: the same for what the kernel writes besides, in memory that XLA plans.
      in_place: so many results, which are all, are the last operands' own memory. XLA copies an
        operand only if something else still reads it afterwards.
      options: attributes of the call.
    """
    written = [*results, *workspace]
    names = [f"%a{i}" for i in range(len(operands))]
    types = [mlir_type(operand) for operand in operands]
    declared = ", ".join(f"{name}: {type_}" for name, type_ in zip(names, types, strict=True))
    result_types = ", ".join(map(mlir_type, results))
    returned = ", ".join(f"%0#{i}" for i in range(len(results)))
    # The location is what XLA calls the instruction, and so what a profile shows.
    module = f"""
        module @{target} {{
          func.func public @main({declared}) -> ({result_types}) {{
            %0:{len(written)} = stablehlo.custom_call @{target}({", ".join(names)}) {{
              api_version = 4 : i32, backend_config = {{{attributes(options)}}},
              output_operand_aliases = {aliases(len(operands), len(written), in_place)}
            }} : ({", ".join(types)}) -> ({", ".join(map(mlir_type, written))}) loc("{target}")
            return {returned} : {result_types}
          }}
        }}"""
    return tf_xla.call_module(
        list(operands),
        version=STABLEHLO_VERSION,
        module=module,
        Tout=[result.dtype for result in results],
        Sout=[result.shape for result in results],
        platforms=("CPU",),
    )


def attributes(options: Mapping[str, bool | int | float]) -> str:
    """Return attributes of a call in StableHLO's text."""
    return ", ".join(f"{name} = {_mlir_value(value)}" for name, value in options.items())


def aliases(num_operands: int, num_written: int, in_place: int) -> str:
    """Return in StableHLO's text that the first results are the last operands' own memory.

    Args:
      num_operands: of the call.
      num_written: its results and workspace.
      in_place: how many.
    """
    parts = [
        f"#stablehlo.output_operand_alias<output_tuple_indices = [{i if num_written > 1 else ''}], "
        f"operand_index = {num_operands - in_place + i}, operand_tuple_indices = []>"
        for i in range(in_place)
    ]
    return f"[{', '.join(parts)}]"


def _mlir_value(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value} : i64" if isinstance(value, int) else f"{value:.9e} : f32"


def mlir_type(tensor: Any) -> str:
    """Return the type of a tensor of static shape in StableHLO's text."""
    sizes = "".join(f"{size}x" for size in tensor.shape)
    return f"tensor<{sizes}{_MLIR_TYPES[tensor.dtype]}>"
