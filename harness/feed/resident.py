"""The whole data set on the device: dispatches get row ids and read the rows there."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from harness.feed.batch import Arrays, Columns, ResidentBatches
from harness.feed.plan import Dispatch, EpochPlan, Plan, epochs_from, power_of_two

_ByRows = dict[int, tuple[ResidentBatches, ...]]
_Prepared = tuple[EpochPlan, int, _ByRows]


class Resident:
    """Rows that lie on every device of a plan's replicas, since the constructor."""

    def __init__(
        self, columns: Columns, *, devices: Sequence[str], shares_programs: bool = False
    ) -> None:
        """With `shares_programs`, arrays get a power of two of elements: programs depend on it."""
        sets: dict[str, Arrays] = {}
        arrays = columns.arrays()
        if shares_programs:
            arrays = tf.nest.map_structure(_filled, arrays)
        for device in devices:
            with tf.device(device):
                sets[device] = tf.nest.map_structure(tf.constant, arrays)
        # No method of `self`, whose rows on the devices it would keep.
        self._prepare = functools.partial(_prepared, sets)
        self._ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-epoch")
        # An evaluation has the same row ids each time.
        self._evaluation = functools.lru_cache(maxsize=1)(self._prepare)

    def dispatches(
        self,
        plan: Plan,
        *,
        epochs: int = 1,
        start_step: int = 0,
        calls: Callable[[], int] | None = None,
        at_once: Callable[[], int] = lambda: 1,
    ) -> Iterator[tuple[Dispatch, _ByRows]]:
        """Yields each dispatch with its epoch's batches, as row ids, by their size; see `feed`. Row
        ids of `at_once()` epochs go to the devices together, prepared during the epochs before, and
        those of the first epochs from this call on."""
        upcoming = epochs_from(plan, start_step=start_step, epochs=epochs)

        def prepare_next() -> Callable[[], list[_Prepared]]:
            following = tuple(itertools.islice(upcoming, at_once()))
            if not following:
                return list
            if epochs == 1 and plan.seed is None:
                return functools.partial(self._evaluation, plan, following)
            return self._ahead.submit(self._prepare, plan, following).result

        def every(ahead: Callable[[], list[_Prepared]]) -> Iterator[tuple[Dispatch, _ByRows]]:
            while prepared := ahead():
                ahead = prepare_next()
                for planned, step, batches in prepared:
                    while step < plan.steps_per_epoch:
                        num_calls = plan.steps_per_epoch if calls is None else calls()
                        end = plan.dispatch_end(step, calls=num_calls)
                        yield planned.dispatch(step, end), batches
                        step = end

        return every(prepare_next())


def _prepared(
    sets: dict[str, Arrays], plan: Plan, epochs: Sequence[tuple[int, int]]
) -> list[_Prepared]:
    planned = [EpochPlan(plan, epoch) for epoch, _ in epochs]
    batches: list[_ByRows] = [{} for _ in epochs]
    for num_rows in planned[0].batches:
        by_device = []
        for share, (device, own) in enumerate(sets.items(), start=plan.first_share):
            rows = [one.batches[num_rows][share].astype(np.uint32) for one in planned]
            rows = list(map(_filled, rows)) if plan.shares_programs else rows
            by_device.append([ResidentBatches(*own, rows=r) for r in _on(device, rows)])
        for found, made in zip(batches, zip(*by_device, strict=True), strict=True):
            found[num_rows] = made
    return [(one, step, own) for one, (_, step), own in zip(planned, epochs, batches, strict=True)]


def _filled(array: np.ndarray) -> np.ndarray:
    """Returns an array with zeros behind it, which nobody reads, up to a power of two of rows."""
    least = 1 if array.ndim > 1 else 2**10  # numbers of their own size are cheap
    missing = power_of_two(len(array), least) - len(array)
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))


def _on(device: str, arrays: Sequence[np.ndarray]) -> Sequence[tf.Tensor]:
    """Returns arrays of one shape, uint32, as tensors on a device, by one copy: a GPU copies after
    its current work, which may need another GPU's work that another Python thread has to start.
    Only `tf.identity` lets other threads run meanwhile."""
    # As float32, because TensorFlow has no kernel for a GPU that unstacks uint32.
    with tf.device("/CPU:0"):
        together = tf.constant(np.stack(arrays).view(np.float32))
    with tf.device(device):
        parts = tf.unstack(tf.identity(together))
        return [tf.bitcast(part, tf.uint32) for part in parts]
