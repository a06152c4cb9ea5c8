"""Custom calls of native kernels, of a CPU and of a GPU in one operation, as StableHLO's text.

The device that the operation will run on is unknown when a function is traced; XLA compiles the
call for the device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla

from kernels.multi_hot.cuda.library import SOURCES as CUDA_SOURCES
from kernels.multi_hot.cuda.library import offer_cuda
from kernels.multi_hot.native.library import load, registered
from kernels.multi_hot.registry import Lot, Problem

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
_STABLEHLO_VERSION = 9


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


def platforms() -> tuple[str, ...]:
    """Return the platforms that calls are for: a host, and a GPU if TensorFlow sees one."""
    return ("CPU", "CUDA") if tf.config.get_visible_devices("GPU") else ("CPU",)


def may_run_on_gpu() -> bool:
    return len(platforms()) > 1


def batches_for_gpu(problem: Problem, make: Callable[[Lot], list[Tensor]]) -> list[Tensor]:
    """Return what a GPU's kernels read of several batches, or of the sets as the only one: what
    `make` makes of them, the number of the current one, and their weights if there are some.
    Nothing where no GPU is visible."""
    if not may_run_on_gpu():
        return []
    if problem.among is None:
        sets = (problem.values, problem.row_splits, problem.weights)
        lot = Lot(*(None if part is None else part[None] for part in sets))
        step = tf.constant(0)
    else:
        lot, step = problem.among
    return [*make(lot), step, *([] if lot.weights is None else [lot.weights])]


def workspace(of: Literal["sort", "sum"], *sizes: int) -> list[tf.TensorSpec]:
    """Return an array for a GPU's kernels, whose size cuda/binding.cc knows; none where no GPU is
    visible."""
    if not may_run_on_gpu():
        return []
    num_words = registered(CUDA_SOURCES)[1][f"multi_hot_cuda_{of}_words"]
    num_words.restype = ctypes.c_int64
    return [tf.TensorSpec([num_words(*map(ctypes.c_int64, sizes))], tf.int32)]


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A registered kernel, its operands, and the types of these and of its results."""

    target: str
    operands: Sequence[Tensor]
    dtypes: Sequence[tf.DType | None] | None = None  # Of the operands, if converted
    result_dtypes: Sequence[tf.DType] | None = None  # Its own, if converted
    workspace: Sequence[tf.TensorSpec] = ()  # Arrays for it, in memory that XLA plans
    attributes: Mapping[str, bool | int | float] = field(default_factory=dict)


def call_on_platform(
    results: Sequence[tf.TensorSpec],
    *,
    host: Kernel | None,
    cuda: Kernel | None,
    in_place: int = 0,
) -> list[Tensor]:
    """Return the results of `host` on a CPU and of `cuda` on a GPU, zeros without a kernel. Shapes
    are static. The last `in_place` operands, if any, give the results their memory; XLA copies an
    operand only if something else reads it afterwards."""
    known = platforms()
    kernels = (host, cuda)[: len(known)]
    every = [operand for kernel in kernels if kernel for operand in kernel.operands]
    operands = [*{id(operand): operand for operand in every}.values()]
    declared = ", ".join(f"%a{i}: {_mlir_type(operand)}" for i, operand in enumerate(operands))
    types = ", ".join(map(_mlir_type, results))
    branches = ", ".join(f"{{{_branch(k, operands, results, in_place)}}}" for k in kernels)
    returned = ", ".join(f"%r#{i}" for i in range(len(results)))
    # The lowering knows which of several platforms it is for, and drops the other branch.
    index = "%platform = stablehlo.constant dense<0> : tensor<i32>"
    if len(known) > 1:
        declared, index = f"%platform: tensor<i32>, {declared}", ""
    module = f"""
        module @kernels {{
          func.func public @main({declared}) -> ({types}) {{
            {index}
            %r:{len(results)} = "stablehlo.case"(%platform) ({branches})
              : (tensor<i32>) -> ({types})
            return {returned} : {types}
          }}
        }}"""
    return tf_xla.call_module(
        operands,
        version=_STABLEHLO_VERSION,
        module=module,
        Tout=[result.dtype for result in results],
        Sout=[result.shape for result in results],
        platforms=known,
    )


def _branch(
    kernel: Kernel | None,
    operands: Sequence[Tensor],
    results: Sequence[tf.TensorSpec],
    in_place: int,
) -> str:
    types = ", ".join(map(_mlir_type, results))
    lines: list[str] = []
    if kernel is None:
        zeros = (f"stablehlo.constant dense<0> : {_mlir_type(result)}" for result in results)
        lines = [f"%z{i} = {zero}" for i, zero in enumerate(zeros)]
        written_zeros = ", ".join(f"%z{i}" for i in range(len(results)))
        return "\n".join([*lines, f"stablehlo.return {written_zeros} : {types}"])

    def converted(name: str, new_name: str, old: tf.TensorSpec, new: tf.TensorSpec) -> str:
        if old.dtype == new.dtype:
            return name
        signature = f"({_mlir_type(old)}) -> {_mlir_type(new)}"
        lines.append(f"{new_name} = stablehlo.convert {name} : {signature}")
        return new_name

    dtypes = kernel.dtypes or [None] * len(kernel.operands)
    given = [
        tf.TensorSpec(operand.shape, dtype or operand.dtype)
        for operand, dtype in zip(kernel.operands, dtypes, strict=True)
    ]
    numbers = {id(operand): i for i, operand in enumerate(operands)}
    names = [
        converted(f"%a{numbers[id(operand)]}", f"%c{i}", operand, own)
        for i, (operand, own) in enumerate(zip(kernel.operands, given, strict=True))
    ]
    written = [
        tf.TensorSpec(result.shape, dtype)
        for result, dtype in zip(
            results, kernel.result_dtypes or [result.dtype for result in results], strict=True
        )
    ]
    everything = [*written, *kernel.workspace]
    attributes = ", ".join(f"{n} = {_mlir_value(v)}" for n, v in kernel.attributes.items())
    # XLA names the instruction by its location, which a profile shows.
    lines.append(
        f"%k:{len(everything)} = stablehlo.custom_call @{kernel.target}({', '.join(names)}) "
        f"{{api_version = 4 : i32, backend_config = {{{attributes}}}, "
        f"operand_layouts = {_layouts(given)}, result_layouts = {_layouts(everything)}, "
        f"output_operand_aliases = {_aliases(len(given), len(everything), in_place)}}} : "
        f"({', '.join(map(_mlir_type, given))}) -> ({', '.join(map(_mlir_type, everything))}) "
        f'loc("{kernel.target}")'
    )
    returned = [
        converted(f"%k#{i}", f"%w{i}", own, result)
        for i, (own, result) in enumerate(zip(written, results, strict=True))
    ]
    return "\n".join([*lines, f"stablehlo.return {', '.join(returned)} : {types}"])


def _aliases(num_operands: int, num_written: int, in_place: int) -> str:
    parts = [
        f"#stablehlo.output_operand_alias<output_tuple_indices = [{i if num_written > 1 else ''}], "
        f"operand_index = {num_operands - in_place + i}, operand_tuple_indices = []>"
        for i in range(in_place)
    ]
    return f"[{', '.join(parts)}]"


def _layouts(tensors: Sequence[Any]) -> str:
    """Return tensors' row-major layouts in StableHLO's text; XLA may choose others without."""
    parts = []
    for tensor in tensors:
        rank = len(tensor.shape)
        parts.append(f"dense<{[*reversed(range(rank))]}> : tensor<{rank}xindex>")
    return f"[{', '.join(parts)}]"


def _mlir_value(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value} : i64" if isinstance(value, int) else f"{value:.9e} : f32"


def _mlir_type(tensor: Any) -> str:
    sizes = "".join(f"{size}x" for size in tensor.shape)
    return f"tensor<{sizes}{_MLIR_TYPES[tensor.dtype]}>"
