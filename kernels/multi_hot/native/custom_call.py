"""A call of a registered kernel from TensorFlow, as StableHLO text inside the compiled program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla

Tensor = Any

_MLIR_TYPES = {
    tf.float32: "f32",
    tf.bfloat16: "bf16",
    tf.float16: "f16",
    tf.uint16: "ui16",
    tf.int32: "i32",
    tf.int64: "i64",
}
_STABLEHLO_VERSION = 9


def custom_call(
    target: str,
    operands: Sequence[Tensor],
    results: Sequence[tf.TensorSpec],
    *,
    config: str = "",
    num_returned: int | None = None,
) -> list[Tensor]:
    """Return the results of the kernel registered as `target`.

    Args:
      target: its name.
      operands: tensors of static shapes.
      results: shape and dtype of everything the kernel writes.
      config: its attributes, as MLIR text such as `unique = true`.
      num_returned: how many of the results to return; the others are workspace that XLA plans.
        None returns all.
    """
    returned = results if num_returned is None else results[:num_returned]
    names = [f"%a{i}" for i in range(len(operands))]
    types = [_mlir_type(operand) for operand in operands]
    declared = ", ".join(f"{name}: {type_}" for name, type_ in zip(names, types, strict=True))
    returned_types = ", ".join(map(_mlir_type, returned))
    # MLIR numbers the results of one operation only where there are several.
    given = ["%0"] if len(results) == 1 else [f"%0#{i}" for i in range(len(returned))]
    produced = "%0" if len(results) == 1 else f"%0:{len(results)}"
    # The location is what XLA calls the instruction, and so what a profile shows.
    module = f"""
        module @{target} {{
          func.func public @main({declared}) -> ({returned_types}) {{
            {produced} = stablehlo.custom_call @{target}({", ".join(names)}) {{
              api_version = 4 : i32, backend_config = {{{config}}}
            }} : ({", ".join(types)}) -> ({", ".join(map(_mlir_type, results))}) loc("{target}")
            return {", ".join(given)} : {returned_types}
          }}
        }}"""
    return tf_xla.call_module(
        list(operands),
        version=_STABLEHLO_VERSION,
        module=module,
        Tout=[result.dtype for result in returned],
        Sout=[result.shape for result in returned],
        platforms=("CPU",),
    )


def _mlir_type(tensor: Any) -> str:
    sizes = "".join(f"{size}x" for size in tensor.shape)
    return f"tensor<{sizes}{_MLIR_TYPES[tensor.dtype]}>"
