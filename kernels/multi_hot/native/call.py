"""Custom calls of native kernels, of a CPU and of a GPU in one operation, as StableHLO's text.

The device that the operation will run on is unknown when a function is traced; XLA compiles the
call for the device.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla

from kernels.multi_hot.cuda.library import SOURCES as CUDA_SOURCES
from kernels.multi_hot.cuda.library import offer_cuda
from kernels.multi_hot.native.build import load
from kernels.multi_hot.registry import BatchGroup, Problem, Tensor

_STABLEHLO_VERSION = 9


def checked(problem: Problem) -> Problem:
    """Check that the sets have static shapes, and load the kernels; return the sets."""
    if None in (problem.values.shape[0], problem.row_splits.shape[0]):
        raise ValueError(
            "the native kernels need static shapes, and the length of values or row_splits is "
            "unknown: trace the function with its real shape, or use the implementation 'gather'"
        )
    load()
    offer_cuda()
    return problem


def platforms() -> tuple[str, ...]:
    """Return the platforms that calls are for: a host, and a GPU if TensorFlow sees one."""
    return ("CPU", "CUDA") if tf.config.get_visible_devices("GPU") else ("CPU",)


def may_run_on_gpu() -> bool:
    return len(platforms()) > 1


def batches_for_gpu(problem: Problem, make: Callable[[BatchGroup], list[Tensor]]) -> list[Tensor]:
    """Return what a GPU's kernels read of several batches, or of the sets as the only one: what
    `make` makes of them, the number of the current one, and their weights if there are some.
    Nothing where no GPU is visible."""
    if not may_run_on_gpu():
        return []
    if problem.group is None:
        splits = problem.row_splits
        if splits.dtype == tf.int64:  # wrong splits stay wrong
            splits = tf.cast(tf.clip_by_value(splits, -1, problem.values.shape[0] + 1), tf.int32)
        sets = (problem.values, splits, problem.weights)
        lot = BatchGroup(*(None if part is None else part[None] for part in sets))
        step = tf.constant(0)
    else:
        lot, step = problem.group
    return [*make(lot), step, *([] if lot.weights is None else [lot.weights])]


def workspace_size(of: Literal["counts", "tiles"], *sizes: int) -> int:
    """Return the size of an array for a GPU's kernels, which cuda/binding.cc knows; 0 where no GPU
    is visible."""
    if not may_run_on_gpu():
        return 0
    size = load(CUDA_SOURCES)[1][f"multi_hot_cuda_{of}"]
    size.restype = ctypes.c_int64
    return int(size(*map(ctypes.c_int64, sizes)))


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A registered kernel and its operands."""

    target: str
    operands: Sequence[Tensor]
    result_dtype: tf.DType | None = None  # Of its results, if they are converted
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
    """Return the part of a platform: the kernel's call, and the conversion of its results."""
    types = list(map(_mlir_type, results))
    if kernel is None:
        lines = [f"%w{i} = stablehlo.constant dense<0> : {own}" for i, own in enumerate(types)]
    else:
        dtype = kernel.result_dtype
        written = [tf.TensorSpec(result.shape, dtype or result.dtype) for result in results]
        lines = [_call(kernel, operands, [*written, *kernel.workspace], in_place)]
        for i, (own, result) in enumerate(zip(written, types, strict=True)):
            lines.append(f"%w{i} = stablehlo.convert %k#{i} : ({_mlir_type(own)}) -> {result}")
    names = ", ".join(f"%w{i}" for i in range(len(types)))
    return "\n".join([*lines, f"stablehlo.return {names} : {', '.join(types)}"])


def _call(
    kernel: Kernel, operands: Sequence[Tensor], written: Sequence[tf.TensorSpec], in_place: int
) -> str:
    names = {id(operand): f"%a{i}" for i, operand in enumerate(operands)}
    given = ", ".join(names[id(operand)] for operand in kernel.operands)
    attributes = ", ".join(f"{n} = {_mlir_value(v)}" for n, v in kernel.attributes.items())
    first = len(kernel.operands) - in_place
    aliases = ", ".join(
        # A single result is no tuple.
        f"#stablehlo.output_operand_alias<output_tuple_indices = [{i if len(written) > 1 else ''}],"
        f" operand_index = {first + i}, operand_tuple_indices = []>"
        for i in range(in_place)
    )
    taken, types = (", ".join(map(_mlir_type, part)) for part in (kernel.operands, written))
    # XLA names the instruction by its location, which a profile shows.
    return (
        f"%k:{len(written)} = stablehlo.custom_call @{kernel.target}({given}) "
        f"{{api_version = 4 : i32, backend_config = {{{attributes}}}, "
        f"operand_layouts = {_layouts(kernel.operands)}, result_layouts = {_layouts(written)}, "
        f"output_operand_aliases = [{aliases}]}} : "
        f'({taken}) -> ({types}) loc("{kernel.target}")'
    )


def _layouts(tensors: Sequence[Any]) -> str:
    """Return tensors' row-major layouts in StableHLO's text; XLA may choose others without."""
    ranks = [len(tensor.shape) for tensor in tensors]
    parts = (f"dense<{[*reversed(range(rank))]}> : tensor<{rank}xindex>" for rank in ranks)
    return f"[{', '.join(parts)}]"


def _mlir_value(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value} : i64" if isinstance(value, int) else f"{value:.16e} : f32"


def _mlir_type(tensor: Any) -> str:
    sizes = "".join(f"{size}x" for size in tensor.shape)
    name = tensor.dtype.name.replace("float", "f").replace("int", "i")
    return f"tensor<{sizes}{name}>"
