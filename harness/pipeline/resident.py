"""The whole data set on the device: a dispatch is handed row ids and reads the rows itself.

Letters: R replicas, b rows of a replica's share of a batch.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from harness.data.ragged import RaggedSets
from harness.pipeline.batch import ResidentBatches, ResidentSets
from harness.pipeline.cadence import StepsPerDispatch
from harness.pipeline.plan import Dispatch, EpochPlan, Plan

_Prepared = tuple[EpochPlan, list[tuple[tf.Tensor, tf.Tensor]]]


def resident_bytes(sets: RaggedSets) -> int:
    """Memory that the sets take on one device."""
    splits = np.int32().itemsize if _fits_int32(sets) else np.int64().itemsize
    ids = _wire(sets)().itemsize
    return sets.nnz * ids + (sets.num_rows + 2) * splits + (sets.num_rows + 1) * 4


class Resident:
    """Yields each dispatch of a plan with all batches of its epoch, as row ids.

    The sets go to every device once, when this is built; an epoch's row ids once an epoch, prepared
    while the epoch before is trained. Those of the first epoch are prepared from the beginning,
    beside whatever else a run starts with, and kept where they are the only ones. A dispatch holds
    as many steps as the plan says, or as `steps` does at the moment, up to the epoch's end or a
    batch of another capacity.
    """

    def __init__(
        self,
        sets: RaggedSets,
        plan: Plan,
        *,
        devices: Sequence[str],
        implementation: str,
        steps: StepsPerDispatch | None = None,
        epochs: int = 1,
        start_step: int = 0,
    ) -> None:
        """Args:
        sets: the rows.
        plan: how they are divided.
        devices: R names, such as `/GPU:0`.
        implementation: of reading rows: `native`, or any other name for XLA's operations.
        steps: how many steps a dispatch holds; None leaves it to the plan.
        epochs: passes over the rows, counted from the first.
        start_step: optimizer steps to leave out, as done by the run that this one resumes.
        """
        assert plan.num_rows == sets.num_rows
        assert plan.replicas == len(devices)
        self._plan = plan
        self._devices = tuple(devices)
        self._implementation = implementation
        self._steps = steps or StepsPerDispatch(plan.steps_per_dispatch, fixed=True)
        self._epochs = epochs
        self._start_step = start_step
        self._sets = [_on_device(sets, device) for device in devices]
        self._ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-epoch")
        first_epoch = start_step // plan.steps_per_epoch
        self._first: Future[_Prepared] | None = self._ahead.submit(self._prepare, first_epoch)

    def __iter__(self) -> Iterator[tuple[Dispatch, tuple[ResidentBatches, ...]]]:
        first_epoch, step = divmod(self._start_step, self._plan.steps_per_epoch)
        prepared = self._first or self._ahead.submit(self._prepare, first_epoch)
        if self._epochs > 1:
            self._first = None
        for epoch in range(first_epoch, self._epochs):
            planned, rows = prepared.result()
            if epoch + 1 < self._epochs:
                prepared = self._ahead.submit(self._prepare, epoch + 1)
            while step < self._plan.steps_per_epoch:
                end = min(step + self._steps.num_steps, planned.end_of_capacity(step))
                dispatch = planned.dispatch(step, end, first=step)
                yield dispatch, self._batches(rows, dispatch.capacity)
                step = end
            step = 0

    def _prepare(self, epoch: int) -> _Prepared:
        """The epoch's plan; for each replica its row ids [steps, b] and real rows [steps]."""
        plan = self._plan
        planned = EpochPlan(plan, epoch)
        # Replica r takes rows [r*b, (r+1)*b) of every global batch.
        shape = (plan.steps_per_epoch, plan.replicas, plan.batch_size // plan.replicas)
        rows = planned.order.astype(np.int32).reshape(shape)
        num_rows = np.full(plan.steps_per_epoch, plan.batch_size, np.int32)
        num_rows[-1] -= len(planned.order) - plan.num_rows
        on_devices = []
        for replica, device in enumerate(self._devices):
            with tf.device(device):
                on_devices.append((tf.constant(rows[:, replica]), tf.constant(num_rows)))
        return planned, on_devices

    def _batches(
        self, rows: list[tuple[tf.Tensor, tf.Tensor]], capacity: int
    ) -> tuple[ResidentBatches, ...]:
        return tuple(
            ResidentBatches(sets, ids, num_rows, capacity, self._implementation)
            for sets, (ids, num_rows) in zip(self._sets, rows, strict=True)
        )


def _on_device(sets: RaggedSets, device: str) -> ResidentSets:
    splits = np.int32 if _fits_int32(sets) else np.int64
    with tf.device(device):
        # One empty row more, with label 0: what an incomplete batch is padded with.
        return ResidentSets(
            values=tf.constant(sets.values.astype(_wire(sets), copy=False)),
            row_splits=tf.constant(np.append(sets.row_splits, sets.nnz).astype(splits)),
            labels=tf.constant(np.append(sets.labels, 0).astype(np.int32)),
        )


def _wire(sets: RaggedSets) -> type[np.uint16] | type[np.int32]:
    return np.uint16 if sets.num_tokens <= np.iinfo(np.uint16).max + 1 else np.int32


def _fits_int32(sets: RaggedSets) -> bool:
    return sets.nnz <= np.iinfo(np.int32).max
