"""The whole data set on the device: a dispatch is handed row ids and reads the rows itself."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from harness.pipeline.batch import Columns, ResidentBatches
from harness.pipeline.plan import Dispatch, EpochPlan, Plan, epochs_from

_Prepared = tuple[EpochPlan, int, tuple[ResidentBatches, ...]]


class Resident:
    """Rows that lie on every device, where they are put once, when this is built."""

    def __init__(self, columns: Columns, *, devices: Sequence[str]) -> None:
        """Args:
        columns: of the rows.
        devices: their names, such as `/GPU:0`, one for each of a plan's replicas.
        """
        self._devices = tuple(devices)
        self._sets = []
        for device in devices:
            with tf.device(device):
                self._sets.append(columns.padded().on_device())
        self._ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-epoch")

    def dispatches(
        self,
        plan: Plan,
        *,
        epochs: int = 1,
        start_step: int = 0,
        calls: Callable[[], int] | None = None,
    ) -> Iterator[tuple[Dispatch, tuple[ResidentBatches, ...]]]:
        """Each dispatch with all batches of its epoch, as row ids; see `feed`.

        An epoch's row ids go to the devices once an epoch, prepared while the epoch before is
        trained; those of the first from the call on, beside whatever else a run starts with.
        """
        upcoming = epochs_from(plan, start_step=start_step, epochs=epochs)

        def prepare_next() -> Future[_Prepared] | None:
            following = next(upcoming, None)
            return following and self._ahead.submit(self._prepare, plan, *following)

        return self._dispatches(plan, prepare_next(), prepare_next, calls)

    def _dispatches(
        self,
        plan: Plan,
        ahead: Future[_Prepared] | None,
        prepare_next: Callable[[], Future[_Prepared] | None],
        calls: Callable[[], int] | None,
    ) -> Iterator[tuple[Dispatch, tuple[ResidentBatches, ...]]]:
        while ahead is not None:
            planned, step, batches = ahead.result()
            ahead = prepare_next()
            while step < plan.steps_per_epoch:
                num_calls = plan.steps_per_epoch if calls is None else calls()
                end = plan.call_end(step, calls=num_calls)
                yield planned.dispatch(step, end), batches
                step = end

    def _prepare(self, plan: Plan, epoch: int, step: int) -> _Prepared:
        """The epoch's plan, the step to begin at, and its batches on every device."""
        planned = EpochPlan(plan, epoch)
        rows = planned.order.astype(np.uint32)
        batches = []
        own = zip(self._devices, self._sets, strict=True)
        for replica, (device, sets) in enumerate(own, plan.first_share):
            with tf.device(device):
                batches.append(
                    ResidentBatches(
                        *sets,
                        rows=tf.constant(rows[:, replica]),
                        real_rows=tf.constant(planned.real_rows[:, replica]),
                        batch_rows=tf.constant(planned.real_rows.sum(axis=1)),
                    )
                )
        return planned, step, tuple(batches)
