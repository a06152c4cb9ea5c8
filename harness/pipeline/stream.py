"""tf.data stream: gathers ragged rows per dispatch, pads them to a capacity, and prefetches.

The row ids of an epoch are permuted once, in NumPy; everything per row happens in TensorFlow's C++
kernels, but for rows that stay in their files: NumPy takes those of a dispatch from there. A
dispatch is one call. Letters: L steps of a call, R replicas, b rows of one, C capacity.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

from harness.pipeline.batch import Columns, Padded, Ragged, StreamBatches
from harness.pipeline.plan import Dispatch, EpochPlan, Plan, epochs_from

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
    ) -> Iterator[tuple[Dispatch, tuple[StreamBatches, ...]]]:
        """Each dispatch, of one call, with its batches; see `feed`."""
        del calls
        planned = _planned(plan, epochs, start_step)
        batches = self._on_devices(self._dataset(plan, epochs, start_step))
        return zip((dispatch for dispatch, _ in planned), batches, strict=True)

    def _on_devices(self, dataset: tf.data.Dataset) -> Iterator[tuple[StreamBatches, ...]]:
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
        """Elements: the `StreamBatches` of each device."""
        columns = self._columns
        own = slice(plan.first_share, plan.first_share + len(self._devices))

        def calls() -> Iterator[tuple[Any, ...]]:
            for dispatch, rows in _planned(plan, epochs, start_step):
                padding = plan.steps_per_call - len(rows), *rows.shape[1:]
                padded = np.concatenate([rows, np.full(padding, plan.num_rows)])
                capacity = np.array(dispatch.calls[0].capacity, np.int64)
                batch_rows = (padded < plan.num_rows).sum(axis=(1, 2))
                padded = padded[:, own]
                if columns is None:
                    yield padded, capacity, batch_rows
                else:
                    yield _numbered_anew(padded, columns, plan.num_rows, capacity, batch_rows)

        shape = plan.steps_per_call, len(self._devices), plan.rows_per_replica
        signature: tuple[Any, ...] = (
            tf.TensorSpec(shape, tf.int64),
            tf.TensorSpec([len(self._rows.ragged)], tf.int64),
            tf.TensorSpec([plan.steps_per_call], tf.int64),
        )
        gather: Callable[..., Any] = functools.partial(
            _gather, num_rows=plan.num_rows, columns=self._rows
        )
        if columns is not None:
            of_any_length = tf.nest.map_structure(
                lambda tensor: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype), self._rows
            )
            signature += (tf.TensorSpec([], tf.int64), of_any_length)
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
    rows: np.ndarray,
    columns: Columns,
    num_rows: int,
    capacity: np.ndarray,
    batch_rows: np.ndarray,
) -> tuple[Any, ...]:
    """The arguments of `_gather` for columns of the rows of one dispatch alone.

    Args:
        rows: of the devices of this process, int64 [L, R, b].
        columns: of all rows.
        num_rows: of these; also the index of the empty row.
        capacity: [columns].
        batch_rows: [L].
    """
    is_real = rows < num_rows
    count = int(is_real.sum())
    places = np.full(rows.shape, count)
    places[is_real] = np.arange(count)
    taken = columns.take(rows[is_real]).padded()
    for name, array in taken.dense.items():
        array[-1] = columns.dense[name][0]  # as of all rows
    return places, capacity, batch_rows, np.int64(count), taken


def _planned(plan: Plan, epochs: int, start_step: int) -> Iterator[tuple[Dispatch, np.ndarray]]:
    """Each dispatch, and the rows of its steps, [steps, R, b]."""
    for epoch, step in epochs_from(plan, start_step=start_step, epochs=epochs):
        planned = EpochPlan(plan, epoch)
        while step < plan.steps_per_epoch:
            end = plan.call_end(step)
            yield planned.dispatch(step, end, origin=step), planned.order[step:end]
            step = end


@tf.autograph.experimental.do_not_convert
def _one_after_another(*parts: StreamBatches) -> tf.data.Dataset:
    elements = [tf.data.Dataset.from_tensors(part) for part in parts]
    return functools.reduce(tf.data.Dataset.concatenate, elements)


def _gather(
    rows: tf.Tensor, capacities: tf.Tensor, batch_rows: tf.Tensor, num_rows: Any, columns: Padded
) -> tuple[StreamBatches, ...]:
    """The batches of each device.

    Args:
        rows: ids of rows, int64 [L, R, b].
        capacities: int64 [columns].
        batch_rows: real rows of each batch, over all replicas, int64 [L].
        num_rows: ids below it are of real rows.
        columns: of all rows.
    """
    capacity = {name: capacities[place] for place, name in enumerate(columns.ragged)}
    real_rows = tf.reduce_sum(tf.cast(rows < num_rows, tf.int64), axis=2)
    return tuple(
        StreamBatches(
            ragged={
                name: _gather_ragged(sets, rows[:, replica], capacity[name])
                for name, sets in columns.ragged.items()
            },
            dense={
                name: tf.gather(array, rows[:, replica]) for name, array in columns.dense.items()
            },
            id_weights={
                name: _gather_ragged(
                    columns.ragged[name]._replace(values=weights),
                    rows[:, replica],
                    capacity[name],
                ).values
                for name, weights in columns.id_weights.items()
            },
            real_rows=real_rows[:, replica],
            batch_rows=batch_rows,
        )
        for replica in range(rows.shape[1])
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
