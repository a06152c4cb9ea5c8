"""The native kernels as an implementation: custom calls inside the compiled program.

Shapes: B rows, V num_tokens, H units, N values; R resident rows, M their ids, C a batch's capacity.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from kernels.multi_hot.cuda.library import load_cuda, offer_cuda
from kernels.multi_hot.native.build import REMEDY, ROW_SOURCES, NativeUnavailableError
from kernels.multi_hot.native.call import (
    Kernel,
    batches_for_gpu,
    call_on_platform,
    checked,
    may_run_on_gpu,
    workspace,
)
from kernels.multi_hot.native.library import load
from kernels.multi_hot.native.table import row_gradients, sorted_by_id, touch, update
from kernels.multi_hot.registry import Problem, Product
from kernels.multi_hot.segments import take_batches

Tensor = Any

_MAX_CHUNKS = 8
_INDEX_SLACK = 8  # TransposedIndex::kSlack
_MAX_CHUNK_ROWS = 2**16  # which TransposedIndex stores in 16 bits


# The host's kernels compute in float32, because 16 bits save a CPU hardly any time.
def _forward(table: Tensor, problem: Problem) -> Tensor:
    y = tf.TensorSpec([problem.row_splits.shape[0] - 1, table.shape[1]], tf.float32)
    unique = {"unique": problem.unique}
    target, dtypes = "multi_hot_forward", _on_host(problem)
    if table.dtype == tf.bfloat16 and problem.result == tf.float32:
        # A kernel for large tables, whose copy in float32 would be twice their size. Other tables
        # are converted, and need no further library.
        load(ROW_SOURCES)
        target, dtypes = f"{target}_16", [None, *dtypes[1:]]
    host = Kernel(target=target, dtypes=dtypes, attributes=unique)
    cuda = Kernel(target="multi_hot_cuda_forward", attributes=unique, result_dtypes=[table.dtype])
    of_gpu = batches_for_gpu(problem, lambda lot: [lot.values, lot.row_splits])
    return _product(table, problem, y, of_gpu, host=host, cuda=cuda)


def _backward(dy: Tensor, problem: Problem) -> Tensor:
    V, N, H = problem.num_tokens, problem.values.shape[0], dy.shape[1]
    # Counting in parallel costs V per chunk, so a chunk needs enough values to count.
    num_chunks = max(1, min(_MAX_CHUNKS, os.cpu_count() or 1, N // V))
    num_chunks = max(num_chunks, -(-dy.shape[0] // _MAX_CHUNK_ROWS))
    index = [tf.TensorSpec([num_chunks, V], tf.int32), tf.TensorSpec([N + _INDEX_SLACK], tf.uint16)]
    if problem.weights is not None:
        index.append(tf.TensorSpec([N], tf.float32))
    host = Kernel(
        target="multi_hot_backward",
        dtypes=_on_host(problem),
        result_dtypes=[tf.float32],
        workspace=index,
        attributes={"unique": problem.unique},
    )
    cuda = Kernel(target="multi_hot_cuda_gradient", workspace=workspace("sum", N, H))
    dw = tf.TensorSpec([V, H], dy.dtype)
    return _product(dy, problem, dw, sorted_by_id(problem), host=host, cuda=cuda)


def _product(
    matrix: Tensor,
    problem: Problem,
    result: tf.TensorSpec,
    of_gpu: Sequence[Tensor],
    *,
    host: Kernel,
    cuda: Kernel,
) -> Tensor:
    """Return the product of the sets with a matrix. A GPU reads `of_gpu` instead of the sets."""
    sets = [problem.values, problem.row_splits]
    sets += [] if problem.weights is None else [problem.weights]
    host = replace(host, takes=range(1 + len(sets)))
    cuda = replace(cuda, takes=[0, *range(1 + len(sets), 1 + len(sets) + len(of_gpu))])
    (sums,) = call_on_platform([matrix, *sets, *of_gpu], [result], host=host, cuda=cuda)
    return sums


def _on_host(problem: Problem) -> list[tf.DType | None]:
    return [tf.float32, None, tf.int64, None][: 3 + (problem.weights is not None)]


def take_rows(
    values: Tensor,
    row_splits: Tensor,
    rows: Tensor,
    *,
    capacity: int,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Copy one batch from resident sets, inside a compiled program, with `rows` [B] int32 and else
    the arguments of `segments.take_batches`. Return values [C] int32, zeros behind the last,
    row_splits [B + 1] int32, and weights [C] float32 if there are some. A row that does not exist
    or too many ids raise InvalidArgumentError on a CPU. Where a GPU is visible, `take_batches`
    copies the batch."""
    if may_run_on_gpu():
        batches = take_batches(values, row_splits, rows[None], capacity=capacity, weights=weights)
        taken, splits, _, own = (None if part is None else part[0] for part in batches)
        return tf.cast(taken, tf.int32), splits, own
    load()
    results = [tf.TensorSpec([capacity], tf.int32), tf.TensorSpec([rows.shape[0] + 1], tf.int32)]
    operands = [values, row_splits, rows]
    if weights is not None:
        operands = [*operands, weights]
        results.append(tf.TensorSpec([capacity], tf.float32))
    dtypes = [None, tf.int64, None, None][: len(operands)]
    kernel = Kernel(target="multi_hot_take_rows", dtypes=dtypes)
    taken, splits, *found = call_on_platform(operands, results, host=kernel, cuda=kernel)
    return taken, splits, found[0] if found else None


@functools.cache
def trial_sums(device: str) -> list[list[float]]:
    """Return the kernels' sums of two rows on a device, which should be [[20, 22], [0, 0]]. CUDA's
    driver refuses kernels when the first of them is launched."""
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    values, row_splits = tf.constant([9, 1, 9]), tf.constant([0, 3, 3])
    sets = Problem(values, row_splits, num_tokens=10, dtype=tf.float32, unique=False)

    @tf.function(jit_compile=True, autograph=False)
    def sums() -> Tensor:
        return _forward(tf.constant(table), sets)

    load()
    offer_cuda()
    try:
        with tf.device(device):
            found: list[list[float]] = sums().numpy().tolist()
    except tf.errors.OpError as error:
        raise NativeUnavailableError(
            f"{device} does not run the kernels ({error.message.splitlines()[0]}): update its "
            f"driver, {REMEDY}"
        ) from error
    return found


def _prepare(device_type: str) -> str:
    if device_type == "CPU":
        return load().name
    names = f"{load().name}, {load_cuda()}"
    for device in range(len(tf.config.get_visible_devices(device_type))):
        trial_sums(f"/{device_type}:{device}")
    return names


PRODUCT = Product(
    index=checked,
    forward=_forward,
    backward=_backward,
    touch=touch,
    row_gradients=row_gradients,
    update=update,
    takes_rowids=False,
    deterministic_on_gpu=True,
    prepare=_prepare,
)
