"""tf.data stream: gathers ragged rows per dispatch, pads them to a capacity, and prefetches.

The row ids of an epoch are permuted once, in NumPy; everything per row happens in TensorFlow's C++
kernels. Letters: S steps of a dispatch, R replicas, B rows of a global batch, b = B / R,
C capacity.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from harness.data.ragged import RaggedSets
from harness.pipeline.batch import Batches
from harness.pipeline.plan import Dispatch, Plan

_NUM_PREFETCHED = 2
"""Dispatches prepared ahead: one to hand over at once, one in the making."""


class Stream:
    """Yields each dispatch of a plan with the batches of every replica.

    A stream can be iterated again and again. `values` travel as uint16 where the ids fit.
    """

    def __init__(
        self, sets: RaggedSets, plan: Plan, *, epochs: int = 1, start_step: int = 0
    ) -> None:
        """Args:
        sets: the rows; their ids are copied to the host's TensorFlow memory once.
        plan: how they are divided.
        epochs: passes over the rows, counted from the first.
        start_step: optimizer steps to leave out, as done by the run that this one resumes.
        """
        assert plan.num_rows == sets.num_rows
        self._plan = plan
        self._start_step = start_step
        self._epochs = epochs
        self._dataset = _dataset(sets, plan, epochs=epochs, start_step=start_step)

    def __iter__(self) -> Iterator[tuple[Dispatch, tuple[Batches, ...]]]:
        planned = _planned(self._plan, epochs=self._epochs, start_step=self._start_step)
        for dispatch, replicas in zip(planned, self._dataset, strict=True):
            yield dispatch, tuple(Batches(*batches) for batches in replicas)


def _planned(plan: Plan, *, epochs: int, start_step: int) -> Iterator[Dispatch]:
    first_epoch, first_step = divmod(start_step, plan.steps_per_epoch)
    for epoch in range(first_epoch, epochs):
        yield from plan.dispatches(epoch, first_step=first_step)
        first_step = 0


def _dataset(sets: RaggedSets, plan: Plan, *, epochs: int, start_step: int) -> tf.data.Dataset:
    """Elements: R tuples of the fields of `Batches`."""
    steps = plan.steps_per_dispatch
    dispatch_rows = steps * plan.batch_size
    first_epoch, first_step = divmod(start_step, plan.steps_per_epoch)

    def rows_and_capacities(epoch: np.int64) -> tuple[np.ndarray, np.ndarray]:
        """Row ids [dispatches, S * B] and capacities [dispatches] of an epoch."""
        first = first_step if epoch == first_epoch else 0
        planned = plan.dispatches(int(epoch), first_step=first)
        capacities = np.array([d.capacity for d in planned], dtype=np.int64)
        order = plan.order(int(epoch))[first * plan.batch_size :]
        padded = np.full(len(capacities) * dispatch_rows, plan.num_rows, dtype=np.int64)
        padded[: len(order)] = order
        return padded.reshape(-1, dispatch_rows), capacities

    def dispatches_of(epoch: tf.Tensor) -> tf.data.Dataset:
        rows, capacities = tf.numpy_function(
            rows_and_capacities, [epoch], [tf.int64, tf.int64], stateful=False
        )
        rows.set_shape([None, dispatch_rows])
        capacities.set_shape([None])
        return tf.data.Dataset.from_tensor_slices((rows, capacities))

    gather = _Gather(sets, plan)
    # Two workers keep one dispatch ready while the next is gathered; more would take the cores from
    # the training step where that runs on the CPU too.
    return (
        tf.data.Dataset.range(first_epoch, epochs)
        .flat_map(dispatches_of)
        # AutoGraph would write a temporary file, and has no Python control flow to convert here.
        .map(
            tf.autograph.experimental.do_not_convert(gather),
            num_parallel_calls=2,
            deterministic=True,
        )
        .prefetch(_NUM_PREFETCHED)
    )


class _Gather:
    """Row ids [S * B] -> R tuples of the fields of `Batches`."""

    def __init__(self, sets: RaggedSets, plan: Plan) -> None:
        wire = np.uint16 if sets.num_tokens <= np.iinfo(np.uint16).max + 1 else np.int32
        # tf.data reads them on the host; left to itself TensorFlow puts constants on a GPU.
        with tf.device("/CPU:0"):
            self._values = tf.constant(sets.values.astype(wire, copy=False))
            # One empty row more, with label 0: what an incomplete batch is padded with.
            self._row_splits = tf.constant(np.append(sets.row_splits, sets.row_splits[-1]))
            self._labels = tf.constant(np.append(sets.labels, 0).astype(np.int32))
        self._plan = plan

    def __call__(self, rows: tf.Tensor, capacity: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], ...]:
        plan = self._plan
        steps, replicas = plan.steps_per_dispatch, plan.replicas
        per_replica = plan.batch_size // replicas
        num_batches = replicas * steps
        real = tf.reshape(rows < plan.num_rows, [steps, plan.batch_size])
        num_rows = tf.reduce_sum(tf.cast(real, tf.int32), axis=1)
        # [S, R, b] -> [R, S, b]: replica r takes rows [r*b, (r+1)*b) of every global batch.
        rows = tf.transpose(tf.reshape(rows, [steps, replicas, per_replica]), [1, 0, 2])
        rows = tf.reshape(rows, [-1])
        sets = tf.RaggedTensor.from_row_splits(self._values, self._row_splits, validate=False)
        gathered = tf.gather(sets, rows)
        starts = gathered.row_splits[:-1:per_replica]
        values = tf.raw_ops.RaggedTensorToTensor(
            shape=tf.stack([tf.constant(num_batches, tf.int64), capacity]),
            values=gathered.values,
            default_value=tf.zeros([], self._values.dtype),
            row_partition_tensors=[tf.concat([starts, gathered.row_splits[-1:]], axis=0)],
            row_partition_types=["ROW_SPLITS"],
        )
        ends = tf.reshape(gathered.row_splits[1:], [num_batches, per_replica]) - starts[:, None]
        row_splits = tf.pad(tf.cast(ends, tf.int32), [[0, 0], [1, 0]])
        labels = tf.gather(self._labels, rows)

        def of_each_replica(tensor: tf.Tensor, width: int | None) -> list[tf.Tensor]:
            shaped = tf.reshape(tensor, [replicas, steps, -1])
            shaped.set_shape([replicas, steps, width])
            return tf.unstack(shaped, num=replicas)

        return tuple(
            (*fields, num_rows)
            for fields in zip(
                of_each_replica(values, None),
                of_each_replica(row_splits, per_replica + 1),
                of_each_replica(labels, per_replica),
                strict=True,
            )
        )
