"""tf.data stream: gathers the ragged rows of each dispatch, pads them to a capacity, prefetches.

NumPy permutes the row ids of an epoch once. TensorFlow's C++ kernels do all work per row, except
for rows that stay in their files: NumPy reads those of each dispatch. A dispatch is one call, or an
epoch's last two. Letters: S batches of a buffer, of which n are filled, b rows of a replica, C
capacity.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

from harness.feed.batch import Arrays, Columns, Sets, StreamBatches
from harness.feed.plan import Dispatch, EpochPlan, Plan, epochs_from, shares_of

_ByRows = dict[int, StreamBatches]
_NUM_PREFETCHED = 2  # dispatches: one to hand over at once, and one in the making


class Stream:
    """Rows that are gathered on the host, call by call, and copied to the devices of a plan's
    replicas. Unless they are `mapped` from files, TensorFlow's host memory gets one copy."""

    def __init__(self, columns: Columns, *, devices: Sequence[str], mapped: bool = False) -> None:
        self._devices = tuple(devices)
        self._columns = columns if mapped else None
        # Traced once for all evaluations of a run, since they use one plan.
        self._dataset = functools.lru_cache(maxsize=1)(self._gathered)
        # tf.data reads the rows on the host; by default, TensorFlow puts constants on a GPU.
        with tf.device("/CPU:0"):
            sample = columns.take(np.zeros(1, np.int64)) if mapped else columns
            self._rows: Arrays = tf.nest.map_structure(tf.constant, sample.arrays())

    def dispatches(
        self,
        plan: Plan,
        *,
        epochs: int = 1,
        start_step: int = 0,
        calls: Callable[[], int] | None = None,
        at_once: Callable[[], int] = lambda: 1,
    ) -> Iterator[tuple[Dispatch, dict[int, tuple[StreamBatches, ...]]]]:
        del calls, at_once
        planned = _planned(plan, epochs, start_step)
        elements = self._on_devices(self._dataset(plan, epochs, start_step))
        try:
            for (dispatch, _), element in zip(planned, elements, strict=True):
                yield dispatch, {rows: tuple(own[rows] for own in element) for rows in element[0]}
        except tf.errors.OpError:
            if self._columns is not None:
                self._columns.check_files()  # TensorFlow's error hides an error of reading them
            raise

    def _on_devices(self, dataset: tf.data.Dataset) -> Iterator[Sequence[_ByRows]]:
        if self._devices == ("/CPU:0",):  # the batches are there already
            yield from dataset
            return
        # One element for each device in turn, copied there while the device trains on the last one.
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
        columns = self._columns
        # With several workers, this process gathers only the shares of its own devices.
        own = slice(plan.first_share, plan.first_share + len(self._devices))
        most = {
            rows: min(plan.steps_per_call, plan.whole_steps) if rows == plan.batch_size else 1
            for rows in plan.capacities
        }

        def calls() -> Iterator[tuple[Any, ...]]:
            for dispatch, every in _planned(plan, epochs, start_step):
                taken = {rows: tuple(shares[own]) for rows, shares in every.items()}
                # tf.data wants every element alike: a size without a call has capacity 0.
                capacities = {rows: np.zeros(len(plan.lengths), np.int64) for rows in taken}
                for call in dispatch.calls:
                    capacities[call.rows][:] = call.capacity
                if columns is None:
                    yield taken, capacities
                else:
                    columns.check_files()
                    taken, read = _numbered_anew(taken, columns)
                    yield taken, capacities, read

        signature: tuple[Any, ...] = (
            {
                rows: tuple(
                    tf.TensorSpec([None, max(share, 1)], tf.int64)
                    for share in shares_of(rows, plan.replicas)[own]
                )
                for rows in most
            },
            dict.fromkeys(most, tf.TensorSpec([len(self._rows.ragged)], tf.int64)),
        )
        gather: Callable[..., Any] = functools.partial(_gather, most, columns=self._rows)
        if columns is not None:
            of_any_length = tf.nest.map_structure(
                lambda tensor: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype), self._rows
            )
            signature += (of_any_length,)
            gather = functools.partial(_gather, most)
        # AutoGraph would write a temporary file, for no Python control flow to convert.
        gather = tf.autograph.experimental.do_not_convert(gather)
        # Two workers keep one dispatch ready while the next is gathered; more would take cores from
        # a training step on the CPU.
        return (
            tf.data.Dataset.from_generator(calls, output_signature=signature)
            .map(gather, num_parallel_calls=2, deterministic=True)
            .prefetch(_NUM_PREFETCHED)
        )


def _numbered_anew(
    taken: dict[int, tuple[np.ndarray, ...]], columns: Columns
) -> tuple[dict[int, tuple[np.ndarray, ...]], Arrays]:
    """Reads a dispatch's rows from their files; replaces their ids by places in what is read."""
    # Each row is read once, in the order of the file, wherever it is used.
    ids = tf.nest.flatten(taken)
    found, places = np.unique(np.concatenate([own.reshape(-1) for own in ids]), return_inverse=True)
    parts = np.split(places, np.cumsum([own.size for own in ids])[:-1])
    shaped = [part.reshape(own.shape) for part, own in zip(parts, ids, strict=True)]
    return tf.nest.pack_sequence_as(taken, shaped), columns.take(found).arrays()


def _planned(
    plan: Plan, epochs: int, start_step: int
) -> Iterator[tuple[Dispatch, dict[int, list[np.ndarray]]]]:
    """Yields each dispatch and each replica's row ids [n, b] of its batches, by their size."""
    whole, last = plan.whole_steps, plan.last_rows
    for epoch, step in epochs_from(plan, start_step=start_step, epochs=epochs):
        planned = EpochPlan(plan, epoch)
        while step < plan.steps_per_epoch:
            end = plan.dispatch_end(step)
            # The smaller batch comes with the dispatch that ends the epoch, and with no other.
            taken = {
                rows: [own[step:end] if rows > last else own[: end > whole] for own in shares]
                for rows, shares in planned.batches.items()
            }
            yield planned.dispatch(step, end, origin=step), taken
            step = end


@tf.autograph.experimental.do_not_convert
def _one_after_another(*parts: _ByRows) -> tf.data.Dataset:
    elements = [tf.data.Dataset.from_tensors(part) for part in parts]
    return functools.reduce(tf.data.Dataset.concatenate, elements)


def _gather(
    most: dict[int, int],
    taken: dict[int, tuple[tf.Tensor, ...]],
    capacities: dict[int, tf.Tensor],
    columns: Arrays,
) -> tuple[_ByRows, ...]:
    """Gathers each device's batches, by the rows of a whole batch, as are the arguments: S in
    `most`, row ids of each device, int64 [n, b], in `taken`; `capacities`, int64 [columns]."""

    def batches(S: int, rows: tf.Tensor, capacities: tf.Tensor) -> StreamBatches:
        own = zip(columns.ragged.items(), tf.unstack(capacities), strict=True)
        return StreamBatches(
            ragged={name: _gather_ragged(sets, rows, S, length) for (name, sets), length in own},
            dense={n: _filled(tf.gather(array, rows), S) for n, array in columns.dense.items()},
        )

    return tuple(
        {n: batches(most[n], rows, capacities[n]) for n, rows in zip(taken, own, strict=True)}
        for own in zip(*taken.values(), strict=True)
    )


def _filled(array: tf.Tensor, S: int) -> tf.Tensor:
    missing = [[0, S - tf.shape(array)[0]], *[[0, 0]] * (array.shape.rank - 1)]
    return tf.pad(array, missing)


def _gather_ragged(sets: Sets, rows: tf.Tensor, S: int, capacity: tf.Tensor) -> Sets:
    """Returns the sets of rows [n, b] as `StreamBatches` has them."""
    b, found = rows.shape[1], Sets()
    for part, array in sets.items():
        if part == "row_splits":
            continue
        ragged = tf.RaggedTensor.from_row_splits(array, sets["row_splits"], validate=False)
        gathered = tf.gather(ragged, tf.reshape(rows, [-1]))
        by_step = tf.RaggedTensor.from_row_splits(
            gathered.values, gathered.row_splits[::b], validate=False
        )
        found[part] = by_step.to_tensor(shape=tf.stack([tf.constant(S, tf.int64), capacity]))
    # Values and weights have the same rows.
    ends = tf.reshape(gathered.row_splits[1:], [-1, b]) - by_step.row_splits[:-1, None]
    row_splits = tf.pad(tf.cast(ends, tf.uint32), [[0, 0], [1, 0]])
    return {**found, "row_splits": _filled(row_splits, S)}
