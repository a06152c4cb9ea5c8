"""What every dispatch of a run will hold, computed on the host before any tensor exists.

Letters: B rows of a global batch, b of a replica, of which R have a device each, L steps of a call.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from harness.pipeline.capacity import (
    Capacities,
    Capacity,
    capacities_for_any_order,
    capacity_for_batches,
)

BLOCK_ROWS, WINDOW_BLOCKS = 1_024, 64
"""Of `block_order`."""
_ROWS_AT_ONCE = 2**18
"""That are looked at, of many."""
_MAX_ROWS_LOOKED_AT = 2**21
"""Beyond this many rows over all epochs (half a second), a run has a second capacity instead."""


# The stream and the loop walk the same epochs, and near an epoch's end the stream is one ahead.
@functools.lru_cache(maxsize=2)
def epoch_order(num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """A permutation of the rows, int64 [num_rows], that depends on nothing but the arguments.

    Philox is counter-based: keyed by (seed, epoch) its streams are independent. The rows are sorted
    by its raw output, which NumPy keeps stable across versions, unlike `Generator.permutation`
    (NEP 19). Two of its 64-bit keys are equal in one of 3 * 10**7 epochs of 10**6 rows.

    Returns:
        A read-only array.
    """
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(num_rows)
    order = np.argsort(keys)
    order.flags.writeable = False
    return order


@functools.lru_cache(maxsize=2)
def block_order(num_rows: int, *, seed: int, epoch: int, length: int = 0) -> np.ndarray:
    """As `epoch_order`, for rows that are read from a disk: blocks of 1,024 rows that lie side by
    side are permuted, and rows only among the 64 blocks of a window. So a batch holds rows of 64
    places, of which any two meet in some epochs; a permutation of all would read each row from a
    place of its own.

    Returns:
        A read-only array, padded with `num_rows` to `length`: many rows leave no memory for copies.
    """
    blocks = epoch_order(-(-num_rows // BLOCK_ROWS), seed=seed, epoch=epoch)
    random = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).jumped()
    order = np.full(max(length, num_rows), num_rows)
    done = 0
    # A window at a time: of many rows, a sort of all takes several times their memory.
    for first in range(0, len(blocks), WINDOW_BLOCKS):
        starts = BLOCK_ROWS * blocks[first : first + WINDOW_BLOCKS]
        rows = (starts[:, None] + np.arange(BLOCK_ROWS)).reshape(-1)
        rows = rows[rows < num_rows]
        order[done : done + len(rows)] = rows[np.argsort(random.random_raw(len(rows)))]
        done += len(rows)
    order.flags.writeable = False
    return order


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a compiled program, whose length and capacity are constants of it."""

    first: int
    """Which of the batches that come with the dispatch is its first."""
    num_steps: int
    capacity: Capacity
    """Static length of the `values` buffer of one replica's batch, for each ragged column."""


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """Consecutive steps of one epoch that end in one host sync."""

    epoch: int
    step: int
    """Optimizer steps done before it, over all epochs."""
    num_steps: int
    examples: int
    """Real rows; an epoch's last batch is padded with rows of weight 0."""
    tokens: int
    calls: tuple[Call, ...]
    """What runs them, one after another."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Divides epochs into batches and calls; a step's rows depend on (seed, epoch, step)."""

    lengths: np.ndarray
    """Ids per row of each ragged column, int64 [columns, num_rows]."""
    batch_size: int
    """B, over all replicas."""
    replicas: int
    """R, over all workers."""
    steps_per_call: int
    """L: calls begin at its multiples, counted from the epoch's first step."""
    seed: int | None
    """None: an evaluation, of the rows in stored order; empty batches fill its last call."""
    capacities: Capacities
    in_blocks: bool = False
    """Whether rows are permuted as by `block_order`."""
    distinct_epochs: int | None = None
    """After so many the orders repeat, as in a benchmark; None: they never do."""
    first_share: int = 0
    """The first replica that this process has a device for."""

    @property
    def num_rows(self) -> int:
        """Rows of the data set; also the index of the empty row that pads an epoch."""
        return int(self.lengths.shape[1])

    @property
    def rows_per_replica(self) -> int:
        """Rows of one replica's share of a batch."""
        return self.batch_size // self.replicas

    @property
    def steps_per_epoch(self) -> int:
        """Steps that visit every row once, the padded last one included."""
        steps = -(-self.num_rows // self.batch_size)
        return (
            -(-steps // self.steps_per_call) * self.steps_per_call if self.seed is None else steps
        )

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's rows by step and replica, padded to whole batches with the empty row, int64
        [steps, R, b]: replica r takes rows [r*b, (r+1)*b) of every global batch."""
        if self.seed is None:
            rows = np.arange(self.num_rows)
        else:
            drawn = epoch % self.distinct_epochs if self.distinct_epochs else epoch
            if self.in_blocks:
                length = self.steps_per_epoch * self.batch_size
                rows = block_order(self.num_rows, seed=self.seed, epoch=drawn, length=length)
            else:
                rows = epoch_order(self.num_rows, seed=self.seed, epoch=drawn)
        if padding := self.steps_per_epoch * self.batch_size - len(rows):
            rows = np.concatenate([rows, np.full(padding, self.num_rows)])
        return rows.reshape(-1, self.replicas, self.rows_per_replica)

    def call_end(self, step: int, *, calls: int = 1) -> int:
        """Where the call that begins at a step of an epoch ends, or some calls from there on."""
        end = (step // self.steps_per_call + calls) * self.steps_per_call
        return min(end, self.steps_per_epoch)

    def programs(self, *, start_step: int = 0) -> tuple[tuple[int, Capacity], ...]:
        """Steps and capacity of every kind of call that a run from `start_step` on may make."""
        last = (self.steps_per_epoch - 1) // self.steps_per_call * self.steps_per_call
        starts = (start_step % self.steps_per_epoch, 0, last)  # the first, a whole, the last call
        lengths = {self.call_end(start) - start for start in starts}
        return tuple((n, c) for n in sorted(lengths, reverse=True) for c in self.capacities.all)


class EpochPlan:
    """One epoch of a plan: its order, and what any stretch of its steps will hold."""

    def __init__(self, plan: Plan, epoch: int) -> None:
        self._plan = plan
        self._epoch = epoch
        self.order = plan.order(epoch)
        """The epoch's rows, as of `Plan.order`."""
        self.real_rows = (self.order < plan.num_rows).sum(axis=2)
        """Rows of each replica's share of each batch that are no padding, int64 [steps, R]."""
        self._nnz = _nnz(plan, self.order)

    def dispatch(self, start: int, end: int, *, origin: int = 0) -> Dispatch:
        """The dispatch of steps [start, end) of the epoch.

        Args:
            start, end: steps, counted within the epoch.
            origin: the step whose batch is the first that comes with it.
        """
        plan = self._plan
        calls = []
        step = start
        while step < end:
            call_end = min(plan.call_end(step), end)
            nnz = self._nnz[:, step:call_end].max(axis=(1, 2))
            calls.append(
                Call(
                    first=step - origin,
                    num_steps=call_end - step,
                    capacity=plan.capacities.holding(nnz),
                )
            )
            step = call_end
        return Dispatch(
            epoch=self._epoch,
            step=self._epoch * plan.steps_per_epoch + start,
            num_steps=end - start,
            examples=int(self.real_rows[start:end].sum()),
            tokens=int(self._nnz[:, start:end].sum()),
            calls=tuple(calls),
        )


def training_plan(
    lengths: np.ndarray,
    *,
    batch_size: int,
    replicas: int,
    steps_per_call: int,
    seed: int,
    epochs: int,
    in_blocks: bool = False,
    repeating: bool = False,
    first_share: int = 0,
) -> Plan:
    """A plan whose order is drawn anew for every epoch, for a run of so many epochs; with
    `in_blocks`, as by `block_order`; with `repeating`, for one that goes on with the first of them
    after the last."""
    plan = Plan(
        lengths=lengths,
        batch_size=batch_size,
        replicas=replicas,
        steps_per_call=min(steps_per_call, -(-lengths.shape[1] // batch_size)),
        seed=seed,
        in_blocks=in_blocks,
        capacities=capacities_for_any_order(lengths, rows=batch_size // replicas),
        distinct_epochs=epochs if repeating else None,
        first_share=first_share,
    )
    looked_at = min(epochs, max(1, _MAX_ROWS_LOOKED_AT // lengths.shape[1]))
    seen = capacity_for_batches(_nnz(plan, plan.order(epoch)) for epoch in range(looked_at))
    if looked_at < epochs:
        typical = tuple(map(max, seen.typical, plan.capacities.typical))
        seen = Capacities(typical=typical, largest=plan.capacities.largest)
    return replace(plan, capacities=seen)


def evaluation_plan(
    lengths: np.ndarray,
    *,
    batch_size: int,
    replicas: int,
    steps_per_call: int,
    first_share: int = 0,
) -> Plan:
    """A plan that visits the rows once in stored order, with a single capacity, in whole calls."""
    # As many calls, of the same length: the fewest empty batches.
    steps = -(-lengths.shape[1] // batch_size)
    even = -(-steps // -(-steps // steps_per_call))
    plan = Plan(
        lengths=lengths,
        batch_size=batch_size,
        replicas=replicas,
        steps_per_call=even,
        seed=None,
        capacities=Capacities(typical=(), largest=()),
        first_share=first_share,
    )
    return replace(plan, capacities=capacity_for_batches([_nnz(plan, plan.order(0))]))


def _nnz(plan: Plan, order: np.ndarray) -> np.ndarray:
    """Ids of each replica's share of each batch, int64 [columns, steps, R]."""
    found = np.empty([len(plan.lengths), *order.shape[:2]], np.int64)
    steps = max(1, _ROWS_AT_ONCE // plan.batch_size)
    for start in range(0, len(order), steps):
        rows = order[start : start + steps]
        lengths = plan.lengths[:, np.minimum(rows, plan.num_rows - 1)]
        found[:, start : start + steps] = np.where(rows < plan.num_rows, lengths, 0).sum(axis=3)
    return found


def epochs_from(plan: Plan, *, start_step: int, epochs: int) -> Iterator[tuple[int, int]]:
    """Each of a run's epochs from a step on, and the step within it to begin at.

    Args:
        plan: of the run.
        start_step: optimizer steps to leave out, over all epochs.
        epochs: counted from the first of all.
    """
    first_epoch, first_step = divmod(start_step, plan.steps_per_epoch)
    for epoch in range(first_epoch, epochs):
        yield epoch, first_step if epoch == first_epoch else 0
