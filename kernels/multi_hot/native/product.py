"""The native kernels as an implementation: custom calls inside the compiled program. They compute
the product, copy batches, and index and update the touched rows of a table in place.

Shapes: B rows, V num_tokens, H units, N values, n = min(N, V) slots; R resident rows, or stored
rates; M the resident rows' ids, C a batch's capacity.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla

from kernels.multi_hot.cuda.library import load_cuda, offer_cuda
from kernels.multi_hot.native.build import REMEDY, ROW_SOURCES, NativeUnavailableError
from kernels.multi_hot.native.call import (
    Kernel,
    batches_for_gpu,
    call_on_platform,
    checked,
    may_run_on_gpu,
    sum_workspace,
)
from kernels.multi_hot.native.library import load
from kernels.multi_hot.registry import ROW_OPTIMIZERS, Lot, Problem, Product
from kernels.multi_hot.segments import rowids_of_splits, take_batches
from kernels.multi_hot.table_rules import Rule, StepNumbers, series
from kernels.multi_hot.touched import Touched, sum_of_squares

Tensor = Any

_MAX_CHUNKS = 8
_INDEX_SLACK = 8  # TransposedIndex::kSlack
_MAX_CHUNK_ROWS = 2**16  # which TransposedIndex stores in 16 bits
# Least limit of the chunks, which is the number of cores if that is larger. They are more than two
# threads need, so that a thread that starts late does less.
_CHUNKS = 16
# Least number of values in a chunk; a single thread counts fewer faster.
_VALUES_PER_CHUNK = 4096
# Limit of the ids in a bucket, as far as _BUCKETS allows: their counts fit the second cache.
_IDS_PER_BUCKET = 16_384
_BUCKETS = (16, 2048)
_BUCKETS_PER_CORE = 4


# The host's kernels compute in float32, because 16 bits save a CPU hardly any time.
def _forward(table: Tensor, problem: Problem) -> Tensor:
    y = tf.TensorSpec([problem.row_splits.shape[0] - 1, table.shape[1]], tf.float32)
    target, of_host = "multi_hot_forward", _on_host(table, problem)
    if table.dtype == tf.bfloat16 and problem.result == tf.float32:
        # A kernel for large tables, whose copy in float32 would be twice their size. Other tables
        # are converted, and need no further library.
        load(ROW_SOURCES)
        target = f"{target}_16"
        of_host["dtypes"][0] = None

    def sets_of(lot: Lot) -> list[Tensor]:
        weights = [] if lot.weights is None else [lot.weights]
        if not (weights or problem.unique):
            weights = [_by_id(lot, problem.num_tokens).each_once]
        return [lot.values, lot.row_splits, *weights]

    of_gpu = [table, *batches_for_gpu(problem, sets_of)]
    (sums,) = call_on_platform(
        [y],
        host=Kernel(target=target, **of_host),
        cuda=Kernel(target="multi_hot_cuda_forward", operands=of_gpu, result_dtypes=[table.dtype]),
    )
    return sums


def _backward(dy: Tensor, problem: Problem) -> Tensor:
    V, N, H = problem.num_tokens, problem.values.shape[0], dy.shape[1]
    # Counting in parallel costs V per chunk, so a chunk needs enough values to count.
    num_chunks = max(1, min(_MAX_CHUNKS, os.cpu_count() or 1, N // V))
    num_chunks = max(num_chunks, -(-dy.shape[0] // _MAX_CHUNK_ROWS))
    index = [tf.TensorSpec([num_chunks, V], tf.int32), tf.TensorSpec([N + _INDEX_SLACK], tf.uint16)]

    if problem.weights is not None:
        index.append(tf.TensorSpec([N], tf.float32))

    def of_lot(lot: Lot) -> list[Tensor]:
        by_id = _by_id(lot, V)
        return by_id.summed(by_id.keys)

    (dw,) = call_on_platform(
        [tf.TensorSpec([V, H], dy.dtype)],
        host=Kernel(
            target="multi_hot_backward",
            result_dtypes=[tf.float32],
            workspace=index,
            **_on_host(dy, problem),
        ),
        cuda=Kernel(
            target="multi_hot_cuda_gradient",
            operands=[dy, *batches_for_gpu(problem, of_lot)],
            workspace=sum_workspace(N, H),
        ),
    )
    return dw


def _on_host(matrix: Tensor, problem: Problem) -> dict[str, Any]:
    """Return what the kernels of both passes get on a host: the matrix and the sets."""
    weights = [] if problem.weights is None else [problem.weights]
    return {
        "operands": [matrix, problem.values, problem.row_splits, *weights],
        "dtypes": [tf.float32, None, tf.int64, None][: 3 + len(weights)],
        "attributes": {"unique": problem.unique},
    }


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
    kernel = Kernel(target="multi_hot_take_rows", operands=operands, dtypes=dtypes)
    taken, splits, *found = call_on_platform(results, host=kernel, cuda=())
    return taken, splits, found[0] if found else None


class _Index(NamedTuple):
    """TouchedIndex in touched.h, and what a GPU reads in its place."""

    spans: Tensor  # [2 n] int32: where in `rows` those of each id begin and end
    rows: Tensor  # [N] int32
    weights: Tensor  # [N] float32; empty where the sets have none
    of_gpu: list[Tensor]  # The operands of the gradient's sum but dy


class _ById(NamedTuple):
    """What a GPU's kernels read of several batches, sorted by id: equal ids lie in the order of
    their positions."""

    faults: Tensor  # [L] int32: 1 where the splits or an id are wrong
    rows: Tensor  # [L, N] int32; -1 where the row holds the id once more, without weights
    keys: Tensor  # [L, N] int32; V where an entry does not count
    weights: Tensor | None  # [L, N] float32
    each_once: Tensor  # [L, N] float32, in the batch's order: 0 where `rows` is -1, else 1
    # Of the ids that a batch touches:
    slots: Tensor  # [L, N] int32: the place of each key in `ids`; n where an entry does not count
    ids: Tensor  # [L, n] int32, ascending; -1 from `num` on
    num: Tensor  # [L] int32

    def summed(self, keys: Tensor) -> list[Tensor]:
        """Return the operands of a sum over equal keys."""
        return [self.faults, self.rows, keys, *([] if self.weights is None else [self.weights])]


def _by_id(lot: Lot, num_tokens: int) -> _ById:
    sets = (lot.values, lot.row_splits, lot.weights)
    found: _ById = lot.once(num_tokens, lambda: _sorted_by_id(*sets, num_tokens=num_tokens))
    return found


# Compiled wherever it is called from, since XLA alone sorts numbers without their places.
@tf.function(jit_compile=True, autograph=False)
def _sorted_by_id(
    values: Tensor, row_splits: Tensor, weights: Tensor | None, *, num_tokens: int
) -> _ById:
    (L, N), num_rows = values.shape, row_splits.shape[1] - 1
    values = tf.cast(values, tf.int32)
    is_wrong = (row_splits[:, 0] != 0) | (row_splits[:, -1] > N)
    is_wrong |= tf.reduce_any(row_splits[:, 1:] < row_splits[:, :-1], axis=1)
    rows = rowids_of_splits(row_splits, N)
    in_range = (values >= 0) & (values < num_tokens)
    is_wrong |= tf.reduce_any((rows < num_rows) & ~in_range, axis=1)
    keys = tf.where((rows < num_rows) & in_range, values, num_tokens)
    # Id and position in one number.
    kind = tf.int32 if (num_tokens + 1) * N <= tf.int32.max else tf.int64
    entries = tf_xla.sort(tf.cast(keys, kind) * N + tf.range(N, dtype=kind))
    keys, positions = (
        tf.cast(entries // max(N, 1), tf.int32),
        tf.cast(entries % max(N, 1), tf.int32),
    )
    rows = tf.gather(rows, positions, batch_dims=1)
    first = tf.ones([L, min(N, 1)], tf.bool)
    is_first = tf.concat([first, keys[:, 1:] != keys[:, :-1]], axis=1)
    if weights is None:
        is_other = is_first | tf.concat([first, rows[:, 1:] != rows[:, :-1]], axis=1)
        rows = tf.where(is_other, rows, -1)
    else:
        weights = tf.gather(weights, positions, batch_dims=1)
    num_slots, counts = min(N, num_tokens), keys < num_tokens
    num_found = tf.cumsum(tf.cast(is_first & counts, tf.int32), axis=1)
    slots = tf.where(counts, num_found - 1, num_slots)

    def scattered(places: Tensor, numbers: Tensor, to: Tensor) -> Tensor:
        """Return `to` with numbers at their places in each batch; XLA drops those outside."""
        batches = tf.range(L)[:, None] + tf.zeros_like(places)
        return tf.tensor_scatter_nd_update(to, tf.stack([batches, places], axis=2), numbers)

    return _ById(
        faults=tf.cast(is_wrong, tf.int32),
        rows=rows,
        keys=keys,
        weights=weights,
        each_once=scattered(positions, tf.cast(rows >= 0, tf.float32), tf.zeros([L, N])),
        slots=slots,
        ids=scattered(tf.where(is_first, slots, num_slots), keys, tf.fill([L, num_slots], -1)),
        num=num_found[:, -1] if N else tf.zeros([L], tf.int32),
    )


def touch(problem: Problem) -> Touched:
    problem = checked(problem)
    load(ROW_SOURCES)
    V, N = problem.num_tokens, problem.values.shape[0]
    num_slots = min(N, V)
    num_weights = 0 if problem.weights is None else N
    # Chunks and buckets divide the entries among threads. They decide only the order of the slots
    # and the last bits of the sum of their squares.
    num_cores = os.cpu_count() or 1
    num_chunks = max(1, min(max(_CHUNKS, num_cores), N // _VALUES_PER_CHUNK))
    wanted = max(_BUCKETS[0], _BUCKETS_PER_CORE * num_cores, V / _IDS_PER_BUCKET)
    num_buckets = min(_BUCKETS[1], 2 ** math.ceil(math.log2(wanted)))
    weights = tf.zeros([0]) if problem.weights is None else problem.weights
    results = [
        tf.TensorSpec([num_slots], tf.int32),
        tf.TensorSpec([2 * num_slots], tf.int32),
        tf.TensorSpec([N], tf.int32),
        tf.TensorSpec([1], tf.int32),
        tf.TensorSpec([num_weights], tf.float32),
    ]
    host = Kernel(
        target="multi_hot_touch",
        operands=[problem.values, problem.row_splits, weights],
        dtypes=[None, tf.int64, None],
        workspace=[
            tf.TensorSpec([N], tf.int64),
            tf.TensorSpec([num_chunks + 2, num_buckets], tf.int32),
            tf.TensorSpec([num_weights], tf.float32),
        ],
        attributes={"num_tokens": V, "unique": problem.unique},
    )

    def of_lot(lot: Lot) -> list[Tensor]:
        by_id = _by_id(lot, V)
        return [by_id.ids, by_id.num, *by_id.summed(by_id.slots)]

    of_gpu = batches_for_gpu(problem, of_lot)
    cuda = []
    if of_gpu:
        found, num = (tf.gather(part, of_gpu[-1]) for part in of_gpu[:2])
        none = [tf.zeros(part.shape, part.dtype) for part in results[1:3]]
        cuda = [found, *none, num[None], weights]
    ids, spans, rows, num, own = call_on_platform(results, host=host, cuda=cuda)
    return Touched(ids, num, _Index(spans, rows, own, of_gpu[2:]))


def row_gradients(dy: Tensor, touched: Touched) -> tuple[Tensor, Tensor]:
    """Return what `touched.row_gradients` does, but with anything in unused slots."""
    dy = tf.cast(dy, tf.float32)
    on_gpu, N, H = may_run_on_gpu(), touched.index.rows.shape[0], dy.shape[1]
    sizes = [[touched.ids.shape[0], H], *([] if on_gpu else [[1]])]
    spans, rows, weights, of_gpu = touched.index
    gradients, *squares = call_on_platform(
        [tf.TensorSpec(size, tf.float32) for size in sizes],
        host=Kernel(
            target="multi_hot_row_gradients",
            operands=[dy, touched.ids, spans, rows, touched.num, weights],
        ),
        cuda=Kernel(
            target="multi_hot_cuda_row_gradients",
            operands=[dy, *of_gpu],
            workspace=sum_workspace(N, H),
        ),
    )
    if on_gpu:  # XLA adds these up there
        squares = [sum_of_squares(tf.where(touched.ids[:, None] >= 0, gradients, 0.0))]
    return gradients, squares[0]


def update(
    rule: Rule,
    parts: Sequence[Tensor],
    touched: Touched,
    dy: Tensor,
    rows: Tensor | None,
    numbers: StepNumbers,
) -> list[Tensor]:
    """Update a table and its slots in place by any rule, as `table_rules.update` does."""
    if rows is None and may_run_on_gpu():
        rows, _ = row_gradients(dy, touched)
    from_dy = rows is None  # the host's kernel then never stores the rows' gradients
    # Rounded once, as in Keras's Adam.
    betas = [1.0 - rule.beta_1, 1.0 - rule.beta_2, rule.epsilon]
    operands = [
        tf.cast(numbers.active, tf.int32)[None],
        tf.stack([numbers.rate, *map(tf.constant, betas), numbers.factor]),
        numbers.step[None],
        tf.cast(dy if rows is None else rows, tf.float32),
        touched.ids,
        touched.index.spans,
        touched.index.rows,
        touched.num,
        touched.index.weights,
        *parts,
    ]
    options = {"kind": ROW_OPTIMIZERS.index(rule.kind), "from_dy": from_dy}
    return _in_place("update_rows", operands, parts, options)


def catch_up(
    rule: Rule, parts: Sequence[Tensor], touched: Touched | None, *, step: Tensor, active: Tensor
) -> list[Tensor]:
    """Let the touched rows of an `exact_adam` table, or all if None, make up for the steps that
    they missed up to `step`, in place; return the table and its slots. Where not `active`, nothing
    changes."""
    load(ROW_SOURCES)
    constants = series(rule.beta_1, rule.beta_2)
    none = tf.zeros([1], tf.int32)
    operands = [
        tf.cast(active, tf.int32)[None],
        tf.constant([int(touched is None)]),
        step[None],
        none if touched is None else touched.ids,
        none if touched is None else touched.num,
        *map(tf.constant, constants),
        *parts,
    ]
    return _in_place("catch_up", operands, parts, {"epsilon": float(rule.epsilon)})


def _in_place(
    name: str,
    operands: Sequence[Tensor],
    parts: Sequence[Tensor],
    attributes: Mapping[str, bool | int | float],
) -> list[Tensor]:
    """Call a kernel that changes parts of a table, the last operands, in place."""
    host, cuda = (
        Kernel(target=f"{start}_{name}", operands=operands, attributes=attributes)
        for start in ("multi_hot", "multi_hot_cuda")
    )
    results = [tf.TensorSpec(part.shape, part.dtype) for part in parts]
    return call_on_platform(results, host=host, cuda=cuda, in_place=len(parts))


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
