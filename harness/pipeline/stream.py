"""tf.data stream: gathers ragged rows per dispatch, pads them to a capacity, and prefetches.

The row ids of an epoch are permuted once, in NumPy; everything per row happens in TensorFlow's C++
kernels. A dispatch is one call. Letters: L steps of a call, R replicas, D devices, k = R / D shares
of a batch on a device, B rows of a global batch, b = B / R, C capacity.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

from harness.pipeline.batch import Columns, Ragged, StreamBatches
from harness.pipeline.plan import Dispatch, EpochPlan, Plan, epochs_from

_NUM_PREFETCHED = 2
"""Dispatches prepared ahead: one to hand over at once, one in the making."""


class Stream:
    """Rows that are gathered on the host and copied to the devices call by call."""

    def __init__(self, columns: Columns, *, devices: Sequence[str]) -> None:
        """Args:
        columns: of the rows; copied to the host's TensorFlow memory once.
        devices: their names; each has as many of a plan's replicas.
        """
        self._devices = tuple(devices)
        self._last: tuple[Plan | None, int, int, Any] = (None, 0, 0, None)
        # tf.data reads them on the host; left to itself TensorFlow puts constants on a GPU.
        with tf.device("/CPU:0"):
            self._rows = columns.padded()

    def dispatches(
        self,
        plan: Plan,
        *,
        epochs: int = 1,
        start_step: int = 0,
        calls: Callable[[], int] | None = None,
    ) -> Iterator[tuple[Dispatch, tuple[StreamBatches, ...]]]:
        """Each dispatch, of one call, with its batches; see `Feed`."""
        del calls
        epochs_left = functools.partial(epochs_from, plan, start_step=start_step, epochs=epochs)
        dispatches = (d for epoch in epochs_left() for d in _dispatches(plan, *epoch))
        # Traced once for the evaluations of a run, which are all of one plan.
        last_plan, *last_ends, dataset = self._last
        if last_plan is not plan or last_ends != [epochs, start_step]:
            dataset = self._gathered(plan, epochs_left)
            self._last = (plan, epochs, start_step, dataset)
        return zip(dispatches, self._on_devices(dataset), strict=True)

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

    def _gathered(
        self, plan: Plan, epochs: Callable[[], Iterator[tuple[int, int]]]
    ) -> tf.data.Dataset:
        """Elements: the D devices' `StreamBatches`."""
        call_rows = plan.steps_per_call * plan.batch_size

        def rows_and_capacities(epoch: np.int64, step: np.int64) -> tuple[np.ndarray, np.ndarray]:
            """Row ids [calls, L * B] and capacities [calls, columns] of an epoch from a step on."""
            order = plan.order(int(epoch))
            planned = list(_dispatches(plan, int(epoch), int(step)))
            padded = np.full([len(planned), call_rows], plan.num_rows, np.int64)
            for row, dispatch in zip(padded, planned, strict=True):
                begin = dispatch.step % plan.steps_per_epoch * plan.batch_size
                rows = dispatch.num_steps * plan.batch_size
                row[:rows] = order[begin : begin + rows]
            capacities = np.array([d.calls[0].capacity for d in planned], np.int64)
            return padded, capacities.reshape(len(planned), -1)

        def calls_of(epoch: tf.Tensor, step: tf.Tensor) -> tf.data.Dataset:
            rows, capacities = tf.numpy_function(
                rows_and_capacities, [epoch, step], [tf.int64, tf.int64], stateful=False
            )
            rows.set_shape([None, call_rows])
            capacities.set_shape([None, len(self._rows[0])])
            return tf.data.Dataset.from_tensor_slices((rows, capacities))

        # Two workers keep one dispatch ready while the next is gathered; more would take the cores
        # from the training step where that runs on the CPU too.
        return (
            tf.data.Dataset.from_generator(
                epochs, output_signature=(tf.TensorSpec([], tf.int64),) * 2
            )
            .flat_map(calls_of)
            # AutoGraph would write a temporary file, and has no Python control flow to convert.
            .map(
                tf.autograph.experimental.do_not_convert(
                    functools.partial(_gather, self._rows, plan, len(self._devices))
                ),
                num_parallel_calls=2,
                deterministic=True,
            )
            .prefetch(_NUM_PREFETCHED)
        )


def _dispatches(plan: Plan, epoch: int, step: int) -> Iterator[Dispatch]:
    planned = EpochPlan(plan, epoch)
    while step < plan.steps_per_epoch:
        end = plan.call_end(step)
        yield planned.dispatch(step, end, origin=step)
        step = end


@tf.autograph.experimental.do_not_convert
def _one_after_another(*parts: StreamBatches) -> tf.data.Dataset:
    elements = [tf.data.Dataset.from_tensors(part) for part in parts]
    return functools.reduce(tf.data.Dataset.concatenate, elements)


def _gather(
    columns: tuple[dict[str, Ragged], dict[str, tf.Tensor]],
    plan: Plan,
    num_devices: int,
    rows: tf.Tensor,
    capacities: tf.Tensor,
) -> tuple[StreamBatches, ...]:
    """The batches of each device, from row ids [L * B] and capacities [columns]."""
    L, D = plan.steps_per_call, num_devices
    k, b = plan.replicas // D, plan.rows_per_replica
    # [L, D, k, b] -> [D, L, k, b]: replica r takes rows [r*b, (r+1)*b) of every global batch.
    rows = tf.transpose(tf.reshape(rows, [L, D, k, b]), [1, 0, 2, 3])
    real_rows = tf.reduce_sum(tf.cast(rows < plan.num_rows, tf.int64), axis=3)
    batch_rows = tf.reduce_sum(real_rows, axis=[0, 2])

    def of_each_device(tensor: tf.Tensor, *shape: int | None) -> list[tf.Tensor]:
        shaped = tf.reshape(tensor, [D, L, k, *(-1 if size is None else size for size in shape)])
        shaped.set_shape([D, L, k, *shape])
        return [shaped[0]] if D == 1 else tf.unstack(shaped)

    ragged = {
        name: [
            Ragged(*parts)
            for parts in zip(
                of_each_device(values, None), of_each_device(splits, b + 1), strict=True
            )
        ]
        for place, (name, sets) in enumerate(columns[0].items())
        for values, splits in [_gather_ragged(sets, rows, capacities[place])]
    }
    dense = {
        name: of_each_device(tf.gather(array, rows), b, *array.shape[1:])
        for name, array in columns[1].items()
    }
    return tuple(
        StreamBatches(
            ragged={name: parts[device] for name, parts in ragged.items()},
            dense={name: parts[device] for name, parts in dense.items()},
            real_rows=real_rows[device],
            batch_rows=batch_rows,
        )
        for device in range(D)
    )


def _gather_ragged(
    sets: Ragged, rows: tf.Tensor, capacity: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The values [D * L * k, C] and row splits uint32 [D * L * k, b + 1] of rows [D, L, k, b]."""
    b = rows.shape[3]
    num_shares = rows.shape.num_elements() // b
    ragged = tf.RaggedTensor.from_row_splits(sets.values, sets.row_splits, validate=False)
    gathered = tf.gather(ragged, tf.reshape(rows, [-1]))
    starts = gathered.row_splits[:-1:b]
    values = tf.raw_ops.RaggedTensorToTensor(
        shape=tf.stack([tf.constant(num_shares, tf.int64), capacity]),
        values=gathered.values,
        default_value=tf.zeros([], sets.values.dtype),
        row_partition_tensors=[tf.concat([starts, gathered.row_splits[-1:]], axis=0)],
        row_partition_types=["ROW_SPLITS"],
    )
    ends = tf.reshape(gathered.row_splits[1:], [num_shares, b]) - starts[:, None]
    return values, tf.pad(tf.cast(ends, tf.uint32), [[0, 0], [1, 0]])
