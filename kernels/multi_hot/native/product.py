"""The native kernels as an implementation: custom calls inside the compiled program. They compute
the product, copy batches, and index and update the touched rows of a table in place.

Shapes: B rows, V num_tokens, H units, N values, n = min(N, V) slots; R resident rows, or stored
rates; M the resident rows' ids, C a batch's capacity.
"""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from kernels.multi_hot.cuda.library import load_cuda
from kernels.multi_hot.native.build import REMEDY, load
from kernels.multi_hot.native.call import (
    Kernel,
    batches_for_gpu,
    call_on_platform,
    checked,
    may_run_on_gpu,
    workspace_size,
)
from kernels.multi_hot.registry import (
    ROW_OPTIMIZERS,
    BatchGroup,
    Problem,
    Product,
    Tensor,
    UnavailableError,
)
from kernels.multi_hot.segments import take_batches
from kernels.multi_hot.table_rules import Rule, StepNumbers, Touched, series, sum_of_squares

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
    own, target = tf.cast(table, tf.float32), "multi_hot_forward"
    if table.dtype == tf.bfloat16 and problem.result == tf.float32:
        # A kernel for large tables, whose copy in float32 would be twice their size.
        own, target = table, f"{target}_16"

    def sets_of(lot: BatchGroup) -> list[Tensor]:
        sets = [lot.values, lot.row_splits]
        is_set = problem.unique or lot.weights is not None
        return sets if is_set else [*sets, _each_once(lot, problem.num_tokens)]

    of_gpu = [table, *batches_for_gpu(problem, sets_of)]
    (sums,) = call_on_platform(
        [y],
        host=_on_host(target, own, problem),
        cuda=Kernel(target="multi_hot_cuda_forward", operands=of_gpu, result_dtype=table.dtype),
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
    (dw,) = call_on_platform(
        [tf.TensorSpec([V, H], dy.dtype)],
        host=_on_host("multi_hot_backward", tf.cast(dy, tf.float32), problem, index),
        cuda=Kernel(
            target="multi_hot_cuda_gradient",
            operands=[dy, *sorted_by_id(problem)],
            workspace=_tiles(N, H),
        ),
    )
    return dw


def _tiles(num_values: int, units: int) -> list[tf.TensorSpec]:
    return [tf.TensorSpec([workspace_size("tiles", num_values), units], tf.float32)] * 2


def _on_host(
    target: str, matrix: Tensor, problem: Problem, workspace: Sequence[tf.TensorSpec] = ()
) -> Kernel:
    weights = [] if problem.weights is None else [problem.weights]
    return Kernel(
        target=target,
        operands=[matrix, problem.values, tf.cast(problem.row_splits, tf.int64), *weights],
        result_dtype=tf.float32,
        workspace=workspace,
        attributes={"unique": problem.unique},
    )


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
    operands = [values, tf.cast(row_splits, tf.int64), rows]
    if weights is not None:
        operands.append(weights)
        results.append(tf.TensorSpec([capacity], tf.float32))
    kernel = Kernel(target="multi_hot_take_rows", operands=operands)
    taken, splits, *found = call_on_platform(results, host=kernel, cuda=None)
    return taken, splits, found[0] if found else None


class _Index(NamedTuple):
    """TouchedIndex in touched.h, and what a GPU reads in its place."""

    places: Tensor  # [max(2 n, N)] int32: spans in `rows`; on a GPU the slot of each sorted entry
    rows: Tensor  # [N] int32
    weights: Tensor  # [N] float32; empty where the sets have none
    of_gpu: list[Tensor]  # `sorted_by_id`


def sorted_by_id(problem: Problem) -> list[Tensor]:
    """Return what a GPU reads of the entries of all batches, sorted by id once for all of them:
    faults [L], and rows, keys and positions [L, N]; the batch's number; weights [L, N] if any."""
    return batches_for_gpu(problem, lambda lot: _index(lot, problem.num_tokens))


def _index(lot: BatchGroup, num_tokens: int) -> list[Tensor]:
    def make(lot: BatchGroup) -> list[Tensor]:
        L, N = lot.values.shape
        entries = tf.TensorSpec([L, N], tf.int32)
        counts = tf.TensorSpec([L, workspace_size("counts", N, num_tokens)], tf.int32)
        kernel = Kernel(
            target="multi_hot_cuda_index",
            operands=[lot.values, lot.row_splits],
            workspace=[entries, entries, counts],
            attributes={"num_tokens": num_tokens},
        )
        results = [tf.TensorSpec([L], tf.int32), entries, entries, entries]
        return call_on_platform(results, host=None, cuda=kernel)

    found: list[Tensor] = lot.once(("index", num_tokens), make)
    return found


def _each_once(lot: BatchGroup, num_tokens: int) -> Tensor:
    """Return weights for a GPU, float32 [L, N]: 1 where a row holds an id for the first time, else
    0. Equal ids of a row are neighbours in the index, in the order of their positions."""

    def make(lot: BatchGroup) -> Tensor:
        _, rows, keys, positions = _index(lot, num_tokens)
        rows = tf.gather(rows, positions, batch_dims=1)
        again = (keys[:, 1:] == keys[:, :-1]) & (rows[:, 1:] == rows[:, :-1])
        first = tf.concat([tf.ones_like(keys[:, :1], tf.bool), ~again], axis=1)
        places = tf.stack([tf.range(keys.shape[0])[:, None] + 0 * positions, positions], axis=2)
        return tf.scatter_nd(places, tf.cast(first, tf.float32), keys.shape)

    return lot.once(("each once", num_tokens), make)


def touch(problem: Problem) -> Touched:
    problem = checked(problem)
    V, N = problem.num_tokens, problem.values.shape[0]
    num_slots = min(N, V)
    weights = [] if problem.weights is None else [problem.weights]
    num_weights = len(weights) * N
    # Chunks and buckets divide the entries among threads. They decide only the order of the slots
    # and the last bits of the sum of their squares.
    num_cores = os.cpu_count() or 1
    num_chunks = max(1, min(max(_CHUNKS, num_cores), N // _VALUES_PER_CHUNK))
    wanted = max(_BUCKETS[0], _BUCKETS_PER_CORE * num_cores, V / _IDS_PER_BUCKET)
    num_buckets = min(_BUCKETS[1], 2 ** math.ceil(math.log2(wanted)))
    results = [
        tf.TensorSpec([num_slots], tf.int32),
        tf.TensorSpec([1], tf.int32),
        tf.TensorSpec([max(2 * num_slots, N)], tf.int32),
        tf.TensorSpec([N], tf.int32),
        tf.TensorSpec([num_weights], tf.float32),
    ]
    num_tokens = {"num_tokens": V}
    of_gpu = sorted_by_id(problem)
    host = Kernel(
        target="multi_hot_touch",
        operands=[problem.values, tf.cast(problem.row_splits, tf.int64), *weights],
        workspace=[
            tf.TensorSpec([N], tf.int64),
            tf.TensorSpec([num_chunks + 2, num_buckets], tf.int32),
            tf.TensorSpec([num_weights], tf.float32),
        ],
        attributes=num_tokens | {"unique": problem.unique},
    )
    cuda = Kernel(
        target="multi_hot_cuda_touch_sorted",
        operands=of_gpu,
        workspace=[tf.TensorSpec([workspace_size("counts", N, V)], tf.int32)],
        attributes=num_tokens,
    )
    ids, num, places, rows, own = call_on_platform(results, host=host, cuda=cuda)
    return Touched(ids, num, _Index(places, rows, own, of_gpu))


def row_gradients(dy: Tensor, touched: Touched) -> tuple[Tensor, Tensor]:
    """Return what `table_rules.row_gradients` does, but with anything in unused slots."""
    dy = tf.cast(dy, tf.float32)
    on_gpu, N, H = may_run_on_gpu(), touched.index.rows.shape[0], dy.shape[1]
    sizes = [[touched.ids.shape[0], H], *([] if on_gpu else [[1]])]
    ids, num, (places, rows, weights, of_gpu) = touched
    gradients, *squares = call_on_platform(
        [tf.TensorSpec(size, tf.float32) for size in sizes],
        host=Kernel(
            target="multi_hot_row_gradients", operands=[dy, ids, num, places, rows, weights]
        ),
        cuda=Kernel(
            target="multi_hot_cuda_row_gradients",
            operands=[dy, places, *of_gpu],
            workspace=_tiles(N, H),
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
    operands = [
        _active_step(numbers.step, numbers.active),
        tf.stack([numbers.rate, numbers.factor]),
        tf.cast(dy if rows is None else rows, tf.float32),
        *(touched.ids, touched.num),
        *touched.index[:3],
        *parts,
    ]
    attributes = {
        "kind": ROW_OPTIMIZERS.index(rule.kind),
        "from_dy": from_dy,
        # Rounded once, as in Keras's Adam.
        "grow_m": 1.0 - rule.beta_1,
        "grow_v": 1.0 - rule.beta_2,
        "epsilon": float(rule.epsilon),
    }
    return _in_place("update_rows", operands, parts, attributes)


def catch_up(
    rule: Rule, parts: Sequence[Tensor], touched: Touched | None, *, step: Tensor, active: Tensor
) -> list[Tensor]:
    """Let the touched rows of an `exact_adam` table, or all if None, make up for the steps that
    they missed up to `step`, in place; return the table and its slots. Where not `active`, nothing
    changes."""
    load()
    constants = series(rule.beta_1, rule.beta_2)
    none = tf.zeros([1], tf.int32)
    operands = [
        _active_step(step, active),
        *((none, none) if touched is None else (touched.ids, touched.num)),
        *map(tf.constant, constants),
        *parts,
    ]
    attributes = {"epsilon": float(rule.epsilon), "all": touched is None}
    return _in_place("catch_up", operands, parts, attributes)


def _active_step(step: Tensor, active: Tensor) -> Tensor:
    """Return the number of a step, [1], or 0 where nothing is to change."""
    return tf.where(active, step, 0)[None]


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

    @tf.function(jit_compile=True, autograph=False)
    def sums() -> Tensor:
        sets = Problem(tf.constant([9, 1, 9]), tf.constant([0, 3, 3]), 10, tf.float32, unique=False)
        return _forward(tf.reshape(tf.range(20.0), [10, 2]), checked(sets))

    try:
        with tf.device(device):
            found: list[list[float]] = sums().numpy().tolist()
    except tf.errors.OpError as error:
        raise UnavailableError(
            f"{device} does not run the kernels ({error.message.splitlines()[0]}): update its "
            f"driver, {REMEDY}"
        ) from error
    return found


def _prepare(device_type: str) -> str:
    if device_type == "CPU":
        return load()[0].name
    names = f"{load()[0].name}, {load_cuda()}"
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
