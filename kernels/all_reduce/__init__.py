"""Sums tensors over the GPUs of a process, by NCCL, inside a program that XLA compiled.

TensorFlow's own `CollectiveReduceV2` does the same. But in each call of such a program, it starts a
thread for each GPU, which sleeps 1,000 seconds to see whether the others came (tensorflow 56423). A
process that trains for minutes would run out of threads.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from kernels.multi_hot.cuda.library import packaged
from kernels.multi_hot.native.build import load
from kernels.multi_hot.native.call import Kernel, call_on_platform
from kernels.multi_hot.registry import UnavailableError

SOURCES = Path(__file__).resolve().parent


def group_of(devices: tuple[int, ...]) -> int:
    """Connect GPUs by their CUDA numbers; return the group's number for `all_reduce`."""
    _, library = load(SOURCES)
    library.gpu_all_reduce_group.restype = ctypes.c_char_p
    given = (ctypes.c_int * len(devices))(*devices)
    number = ctypes.c_int64()
    nccl = (packaged("nccl", "libnccl.so.2") or ["libnccl.so.2"])[0]
    fault = library.gpu_all_reduce_group(nccl.encode(), len(devices), given, ctypes.byref(number))
    if fault is not None:
        raise UnavailableError(f"NCCL does not connect the GPUs: {fault.decode()}")
    return number.value


def end_group(number: int) -> None:
    """End the sums that GPUs of a group wait in; the group sums nothing further."""
    load(SOURCES)[1].gpu_all_reduce_end(ctypes.c_int64(number))


def all_reduce(
    tensors: Sequence[Any], *, group: int, rank: int, call: int, after: Any | None = None
) -> list[Any]:
    """Return the sum of each tensor, of 16 bits or more, over the GPUs of a group. All of its GPUs
    have to call it equally often, with the same shapes, in the same order. `rank` is this GPU's
    place in it, `call` a number that no other call in the program has, and `after` a tensor to wait
    for."""
    numbers = {"group": group, "rank": rank, "call": call}
    first = [] if after is None else [after]
    kernel = Kernel(target="gpu_all_reduce", operands=[*first, *tensors], attributes=numbers)
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
    return call_on_platform(specs, host=kernel, cuda=kernel, in_place=len(tensors))
