"""Kernels of two platforms as one operation, of which XLA compiles the one for the device at hand.

Where the operation will run is not known when a function is traced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla

from kernels.multi_hot.native.call import STABLEHLO_VERSION, aliases, attributes, layouts, mlir_type

Tensor = Any

_PLATFORMS = ContextVar("_PLATFORMS", default=("CPU", "CUDA"))


@contextlib.contextmanager
def lowered_as_for_gpu() -> Iterator[None]:
    """What is traced in the context calls the GPU's kernels on a CPU. It cannot be run: it is for
    a look at a GPU's program where there is none."""
    token = _PLATFORMS.set(("other", "CPU"))
    try:
        yield
    finally:
        _PLATFORMS.reset(token)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A registered kernel, and in which types it takes and returns what the operation does."""

    target: str
    takes: Sequence[int] | None = None
    """Which of the operands; None: all."""
    dtypes: Sequence[tf.DType | None] | None = None
    """Of the operands that it takes; None: as they are. Operands are converted."""
    result_dtypes: Sequence[tf.DType] | None = None
    """None: the operation's own. Results are converted."""
    workspace: Sequence[tf.TensorSpec] = ()
    """What the kernel writes besides, in memory that XLA plans."""
    attributes: Mapping[str, bool | int | float] = field(default_factory=dict)


def call_on_platform(
    operands: Sequence[Tensor],
    results: Sequence[tf.TensorSpec],
    *,
    host: Kernel,
    cuda: Kernel,
    in_place: int = 0,
) -> list[Tensor]:
    """Return the results of `host` on a CPU and of `cuda` on a GPU. Shapes are static.

    Args:
      operands, results: of both; see `Kernel` for other types.
      host, cuda: the kernels.
      in_place: so many results, which are all, are the last operands' own memory. XLA copies an
        operand only if something else still reads it afterwards.
    """
    declared = ", ".join(f"%a{i}: {mlir_type(operand)}" for i, operand in enumerate(operands))
    types = ", ".join(map(mlir_type, results))
    branches = ", ".join(f"{{{_branch(k, operands, results, in_place)}}}" for k in (host, cuda))
    returned = ", ".join(f"%r#{i}" for i in range(len(results)))
    # The lowering knows the platform's index, and leaves out the other branch.
    module = f"""
        module @{host.target} {{
          func.func public @main(%platform: tensor<i32>, {declared}) -> ({types}) {{
            %r:{len(results)} = "stablehlo.case"(%platform) ({branches})
              : (tensor<i32>) -> ({types})
            return {returned} : {types}
          }}
        }}"""
    return tf_xla.call_module(
        list(operands),
        version=STABLEHLO_VERSION,
        module=module,
        Tout=[result.dtype for result in results],
        Sout=[result.shape for result in results],
        platforms=_PLATFORMS.get(),
    )


def _branch(
    kernel: Kernel, operands: Sequence[Tensor], results: Sequence[tf.TensorSpec], in_place: int
) -> str:
    lines: list[str] = []

    def converted(name: str, new_name: str, old: tf.TensorSpec, new: tf.TensorSpec) -> str:
        if old.dtype == new.dtype:
            return name
        signature = f"({mlir_type(old)}) -> {mlir_type(new)}"
        lines.append(f"{new_name} = stablehlo.convert {name} : {signature}")
        return new_name

    taken = range(len(operands)) if kernel.takes is None else kernel.takes
    dtypes = kernel.dtypes or [None] * len(taken)
    given = [
        tf.TensorSpec(operands[i].shape, dtype or operands[i].dtype)
        for i, dtype in zip(taken, dtypes, strict=True)
    ]
    names = [
        converted(f"%a{i}", f"%c{i}", operands[i], own) for i, own in zip(taken, given, strict=True)
    ]
    written = [
        tf.TensorSpec(result.shape, dtype)
        for result, dtype in zip(
            results, kernel.result_dtypes or [result.dtype for result in results], strict=True
        )
    ]
    everything = [*written, *kernel.workspace]
    # The location is what XLA calls the instruction, and so what a profile shows.
    lines.append(
        f"%k:{len(everything)} = stablehlo.custom_call @{kernel.target}({', '.join(names)}) "
        f"{{api_version = 4 : i32, backend_config = {{{attributes(kernel.attributes)}}}, "
        f"operand_layouts = {layouts(given)}, result_layouts = {layouts(everything)}, "
        f"output_operand_aliases = {aliases(len(operands), len(everything), in_place)}}} : "
        f"({', '.join(map(mlir_type, given))}) -> ({', '.join(map(mlir_type, everything))}) "
        f'loc("{kernel.target}")'
    )
    returned = [
        converted(f"%k#{i}", f"%w{i}", own, result)
        for i, (own, result) in enumerate(zip(written, results, strict=True))
    ]
    types = ", ".join(map(mlir_type, results))
    return "\n".join([*lines, f"stablehlo.return {', '.join(returned)} : {types}"])
