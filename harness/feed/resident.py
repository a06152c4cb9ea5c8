"""The whole data set on the device: dispatches get row ids and read the rows there."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from harness.feed.batch import Arrays, Columns, ResidentBatches
from harness.feed.plan import Dispatch, EpochPlan, Plan, epochs_from

_ByRows = dict[int, tuple[ResidentBatches, ...]]
_Prepared = tuple[EpochPlan, int, _ByRows]


class Resident:
    """Rows that lie on every device of a plan's replicas, since the constructor."""

    def __init__(self, columns: Columns, *, devices: Sequence[str]) -> None:
        self._devices = tuple(devices)
        self._sets: list[Arrays] = []
        for device in devices:
            with tf.device(device):
                self._sets.append(tf.nest.map_structure(tf.constant, columns.arrays()))
        self._ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-epoch")

    def dispatches(
        self,
        plan: Plan,
        *,
        epochs: int = 1,
        start_step: int = 0,
        calls: Callable[[], int] | None = None,
    ) -> Iterator[tuple[Dispatch, _ByRows]]:
        """Yields each dispatch with its epoch's batches, as row ids, by their size; see `feed`. Row
        ids go to the devices once an epoch, prepared during the epoch before, and those of the
        first epoch from this call on."""
        upcoming = epochs_from(plan, start_step=start_step, epochs=epochs)

        def prepare_next() -> Future[_Prepared] | None:
            following = next(upcoming, None)
            return following and self._ahead.submit(self._prepare, plan, *following)

        def every(ahead: Future[_Prepared] | None) -> Iterator[tuple[Dispatch, _ByRows]]:
            while ahead is not None:
                planned, step, batches = ahead.result()
                ahead = prepare_next()
                while step < plan.steps_per_epoch:
                    num_calls = plan.steps_per_epoch if calls is None else calls()
                    end = plan.dispatch_end(step, calls=num_calls)
                    yield planned.dispatch(step, end), batches
                    step = end

        return every(prepare_next())

    def _prepare(self, plan: Plan, epoch: int, step: int) -> _Prepared:
        planned = EpochPlan(plan, epoch)
        batches = {}
        for num_rows, shares in planned.batches.items():
            own = zip(self._devices, self._sets, shares[plan.first_share :], strict=False)
            made = []
            for device, sets, rows in own:
                # A GPU copies after its current work, which may need another GPU's work that
                # another Python thread has to start. Only `tf.identity` lets other threads run
                # meanwhile.
                with tf.device("/CPU:0"):
                    ids = tf.constant(rows.astype(np.uint32))
                with tf.device(device):
                    made.append(ResidentBatches(*sets, rows=tf.identity(ids)))
            batches[num_rows] = tuple(made)
        return planned, step, batches
