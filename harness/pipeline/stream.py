"""tf.data stream: gathers ragged rows per dispatch, pads them to a capacity, and prefetches.

The row ids of an epoch are permuted once, in NumPy; everything per row happens in TensorFlow's C++
kernels, but for rows that stay in their files: NumPy takes those of a dispatch from there. A
dispatch is one call, and the last one of an epoch has its last, smaller batch too. Letters: L steps
of a call, b rows of a replica, C capacity.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

from harness.pipeline.batch import Columns, Padded, Ragged, StreamBatches
from harness.pipeline.plan import Dispatch, EpochPlan, Plan, epochs_from, shares_of

_ByRows = dict[int, StreamBatches]
_NUM_PREFETCHED = 2
"""Dispatches prepared ahead: one to hand over at once, one in the making."""


class Stream:
    """Rows that are gathered on the host and copied to the devices call by call."""

    def __init__(self, columns: Columns, *, devices: Sequence[str], mapped: bool = False) -> None:
        """Args:
        columns: of the rows; copied to the host's TensorFlow memory once.
        devices: their names, one for each of a plan's replicas.
        mapped: whether the rows stay where they are instead.
        """
        self._devices = tuple(devices)
        self._columns = columns if mapped else None
        # Traced once for the evaluations of a run, which are all of one plan.
        self._dataset = functools.lru_cache(maxsize=1)(self._gathered)
        # tf.data reads them on the host; left to itself TensorFlow puts constants on a GPU.
        with tf.device("/CPU:0"):
            sample = columns.take(np.zeros(1, np.int64)) if mapped else columns
            self._rows = sample.padded().on_device()

    def dispatches(
        self,
        plan: Plan,
        *,
        epochs: int = 1,
        start_step: int = 0,
        calls: Callable[[], int] | None = None,
    ) -> Iterator[tuple[Dispatch, dict[int, tuple[StreamBatches, ...]]]]:
        """Each dispatch with its batches, by their rows; see `feed`."""
        del calls
        planned = _planned(plan, epochs, start_step)
        elements = self._on_devices(self._dataset(plan, epochs, start_step))
        for (dispatch, _), element in zip(planned, elements, strict=True):
            yield dispatch, {rows: tuple(own[rows] for own in element) for rows in element[0]}

    def _on_devices(self, dataset: tf.data.Dataset) -> Iterator[Sequence[_ByRows]]:
        """Each dispatch's batches, for every device."""
        if self._devices == ("/CPU:0",):  # where they are already
            yield from dataset
            return
        # One element for each device in turn, copied there while the one before is trained on.
        alternating = dataset.flat_map(_one_after_another)
        iterator = multi_device_iterator_ops.OwnedMultiDeviceIterator(
            alternating, devices=list(self._devices), source_device="/CPU:0"
        )
        try:
            while True:
                yield tuple(iterator.get_next())
        except tf.errors.OutOfRangeError:
            return

    def _gathered(self, plan: Plan, epochs: int, start_step: int) -> tf.data.Dataset:
        """Elements: the batches of each device, by their rows."""
        columns = self._columns
        own = slice(plan.first_share, plan.first_share + len(self._devices))
        sizes = {
            rows: [(plan.steps_per_call if rows == plan.batch_size else 1, share or 1)
                   for share in shares_of(rows, plan.replicas)[own]]
            for rows in plan.capacities
        }  # fmt: skip
        empty = np.int64(plan.num_rows)

        def calls() -> Iterator[tuple[Any, ...]]:
            for dispatch, batches in _planned(plan, epochs, start_step):
                taken = {r: tuple(np.full(s, empty) for s in of_r) for r, of_r in sizes.items()}
                capacity = {r: np.zeros(len(plan.lengths), np.int64) for r in sizes}
                for call in dispatch.calls:
                    capacity[call.rows] = np.array(call.capacity, np.int64)
                    for filled, rows in zip(taken[call.rows], batches[call.rows][own], strict=True):
                        filled[: call.num_steps] = rows
                if columns is None:
                    yield taken, capacity
                else:
                    yield _numbered_anew(taken, columns, plan.num_rows, capacity)

        signature: tuple[Any, ...] = (
            {r: tuple(tf.TensorSpec(s, tf.int64) for s in of_r) for r, of_r in sizes.items()},
            dict.fromkeys(sizes, tf.TensorSpec([len(self._rows.ragged)], tf.int64)),
        )
        gather: Callable[..., Any] = functools.partial(_gather, columns=self._rows)
        if columns is not None:
            of_any_length = tf.nest.map_structure(
                lambda tensor: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype), self._rows
            )
            signature += (of_any_length,)
            gather = _gather
        # AutoGraph would write a temporary file, and has no Python control flow to convert.
        gather = tf.autograph.experimental.do_not_convert(gather)
        # Two workers keep one dispatch ready while the next is gathered; more would take the cores
        # from the training step where that runs on the CPU too.
        return (
            tf.data.Dataset.from_generator(calls, output_signature=signature)
            .map(gather, num_parallel_calls=2, deterministic=True)
            .prefetch(_NUM_PREFETCHED)
        )


def _numbered_anew(
    taken: dict[int, tuple[np.ndarray, ...]], columns: Columns, num_rows: int, capacity: Any
) -> tuple[Any, ...]:
    """The arguments of `_gather` for columns of the rows of one dispatch alone.

    Args:
        taken: of the devices of this process, int64 [steps, b], by the rows of a batch.
        columns: of all rows.
        num_rows: of these; also the index of the empty row.
        capacity: as of `_gather`.
    """
    everything = np.concatenate([rows.reshape(-1) for own in taken.values() for rows in own])
    found, places = np.unique(everything, return_inverse=True)
    found = found[found < num_rows]
    parts = columns.take(found).padded()
    for name, array in parts.dense.items():
        array[-1] = columns.dense[name][0]  # as of all rows
    ends = np.cumsum([rows.size for own in taken.values() for rows in own])
    numbers = iter(np.split(places, ends[:-1]))
    anew = {n: tuple(next(numbers).reshape(r.shape) for r in own) for n, own in taken.items()}
    return anew, capacity, parts


def _planned(
    plan: Plan, epochs: int, start_step: int
) -> Iterator[tuple[Dispatch, dict[int, list[np.ndarray]]]]:
    """Each dispatch, and the rows of its steps: by the rows of a batch of each replica [steps,
    b]."""
    for epoch, step in epochs_from(plan, start_step=start_step, epochs=epochs):
        planned = EpochPlan(plan, epoch)
        while step < plan.steps_per_epoch:
            end = plan.call_end(step)
            parts = {
                rows: [own[step:end] if rows == plan.batch_size else own for own in shares]
                for rows, shares in planned.batches.items()
            }
            yield planned.dispatch(step, end, origin=step), parts
            step = end


@tf.autograph.experimental.do_not_convert
def _one_after_another(*parts: _ByRows) -> tf.data.Dataset:
    elements = [tf.data.Dataset.from_tensors(part) for part in parts]
    return functools.reduce(tf.data.Dataset.concatenate, elements)


def _gather(
    taken: dict[int, tuple[tf.Tensor, ...]], capacities: dict[int, tf.Tensor], columns: Padded
) -> tuple[_ByRows, ...]:
    """The batches of each device, by their rows.

    Args:
        taken: ids of rows of each device, int64 [steps, b], by the rows of a batch.
        capacities: int64 [columns], by the same.
        columns: of all rows.
    """

    def batches(rows: tf.Tensor, capacities: tf.Tensor) -> StreamBatches:
        capacity = dict(zip(columns.ragged, tf.unstack(capacities), strict=True))
        of_weights = {
            name: columns.ragged[name]._replace(values=weights)
            for name, weights in columns.id_weights.items()
        }
        return StreamBatches(
            ragged={
                name: _gather_ragged(sets, rows, capacity[name])
                for name, sets in columns.ragged.items()
            },
            dense={name: tf.gather(array, rows) for name, array in columns.dense.items()},
            id_weights={
                name: _gather_ragged(sets, rows, capacity[name]).values
                for name, sets in of_weights.items()
            },
        )

    devices = zip(*taken.values(), strict=True)
    return tuple(
        {n: batches(rows, capacities[n]) for n, rows in zip(taken, own, strict=True)}
        for own in devices
    )


def _gather_ragged(sets: Ragged, rows: tf.Tensor, capacity: tf.Tensor) -> Ragged:
    """The values [L, C] and row splits uint32 [L, b + 1] of rows [L, b]."""
    L, b = rows.shape
    ragged = tf.RaggedTensor.from_row_splits(*sets, validate=False)
    gathered = tf.gather(ragged, tf.reshape(rows, [-1]))
    by_step = tf.RaggedTensor.from_row_splits(
        gathered.values, gathered.row_splits[::b], validate=False
    )
    values = by_step.to_tensor(shape=tf.stack([tf.constant(L, tf.int64), capacity]))
    starts = by_step.row_splits[:-1, None]
    ends = tf.reshape(gathered.row_splits[1:], [L, b]) - starts
    return Ragged(values, tf.pad(tf.cast(ends, tf.uint32), [[0, 0], [1, 0]]))
