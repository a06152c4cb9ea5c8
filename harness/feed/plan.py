"""What every dispatch of a run will hold, computed on the host before any tensor exists.

Where the batch size does not divide the rows, an epoch's last batch is smaller, as in Keras: a
model never sees a row that is not there. It has a program of its own, of one step.
Letters: B rows of a global batch, b of a replica, of which R have a device each, L steps of a call.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from harness.feed.cadence import call_length
from harness.feed.capacity import (
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
def block_order(num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """As `epoch_order`, for rows that are read from a disk: blocks of 1,024 rows that lie side by
    side are permuted, and rows only among the 64 blocks of a window. So a batch holds rows of 64
    places, of which any two meet in some epochs; a permutation of all would read each row from a
    place of its own.

    Returns:
        A read-only array.
    """
    blocks = epoch_order(-(-num_rows // BLOCK_ROWS), seed=seed, epoch=epoch)
    random = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).jumped()
    order = np.empty(num_rows, np.int64)
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


def shares_of(rows: int, replicas: int) -> list[int]:
    """How many rows of a batch each replica gets: the first ones one more where they do not divide.

    A replica that gets none computes on a row of another one, which counts for nothing: it has to
    take part in sums over all replicas.
    """
    return [len(part) for part in np.array_split(np.arange(rows), replicas)]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a compiled program, whose length, capacity and rows are constants of it."""

    first: int
    """Which of the batches of so many rows that come with the dispatch is its first."""
    num_steps: int
    capacity: Capacity
    """Static length of the `values` buffer of one replica's batch, for each ragged column."""
    rows: int
    """Rows of each of its batches, over all replicas."""


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """Consecutive steps of one epoch that end in one host sync."""

    epoch: int
    step: int
    """Optimizer steps done before it, over all epochs."""
    num_steps: int
    examples: int
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
    """L: dispatches and calls begin at its multiples, counted from the epoch's first step. An
    epoch's last, smaller batch is a call of its own."""
    seed: int | None
    """None: rows in stored order."""
    capacities: Mapping[int, Capacities]
    """Of batches by their number of rows: B, and that of an epoch's last, smaller one."""
    in_blocks: bool = False
    """Whether rows are permuted as by `block_order`."""
    distinct_epochs: int | None = None
    """After so many the orders repeat, as in a benchmark; None: they never do."""
    first_share: int = 0
    """The first replica that this process has a device for."""

    @property
    def num_rows(self) -> int:
        """Rows of the data set."""
        return int(self.lengths.shape[1])

    @property
    def whole_steps(self) -> int:
        """Steps of an epoch with B rows."""
        return self.num_rows // self.batch_size

    @property
    def last_rows(self) -> int:
        """Rows of an epoch's last, smaller batch; 0 where there is none."""
        return self.num_rows % self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps that visit every row once."""
        return self.whole_steps + (self.last_rows > 0)

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's rows, int64 [num_rows]: those of step k are [k*B, (k+1)*B), of which each
        replica takes `shares_of` in order."""
        if self.seed is None:
            return np.arange(self.num_rows)
        drawn = epoch % self.distinct_epochs if self.distinct_epochs else epoch
        order = block_order if self.in_blocks else epoch_order
        return order(self.num_rows, seed=self.seed, epoch=drawn)

    def divided(self, order: np.ndarray) -> dict[int, list[np.ndarray]]:
        """An epoch's batches by their number of rows, for each replica int64 [steps, its rows]."""
        end = self.whole_steps * self.batch_size
        whole = order[:end].reshape(-1, self.replicas, self.batch_size // self.replicas)
        found = {self.batch_size: list(np.moveaxis(whole, 1, 0))} if end else {}
        if self.last_rows:
            parts = np.array_split(order[end:], self.replicas)
            # The replica's own share, or where it has none, a row of another one.
            found[self.last_rows] = [(p if p.size else order[end : end + 1])[None] for p in parts]
        return found

    def dispatch_end(self, step: int, *, calls: int = 1) -> int:
        """Where a dispatch of so many times L steps ends that begins at a step of an epoch."""
        end = (step // self.steps_per_call + calls) * self.steps_per_call
        return min(end, self.steps_per_epoch)

    def calls(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The calls of the steps [start, end) of an epoch: the first step of each, the step after
        its last, and the rows of its batches."""
        while start < end:
            whole = start < self.whole_steps
            limit = (start // self.steps_per_call + 1) * self.steps_per_call
            stop = min(limit, end, self.whole_steps) if whole else end
            yield start, stop, self.batch_size if whole else self.last_rows
            start = stop

    def programs(self, *, start_step: int = 0) -> tuple[Call, ...]:
        """A call of each kind that a run from `start_step` on may make, those of B rows first."""
        last = (self.whole_steps - 1) // self.steps_per_call * self.steps_per_call
        # The first, a whole one, the last of whole batches, and the last batch.
        starts = {start_step % self.steps_per_epoch, 0, max(last, 0), self.whole_steps}
        calls = [
            next(self.calls(start, self.steps_per_epoch))
            for start in starts
            if start < self.steps_per_epoch
        ]
        kinds = {(rows, stop - first) for first, stop, rows in calls}
        return tuple(
            Call(first=0, num_steps=num_steps, capacity=capacity, rows=rows)
            for rows, num_steps in sorted(kinds, reverse=True)
            for capacity in self.capacities[rows].all
        )


class EpochPlan:
    """One epoch of a plan: its batches, and what any stretch of its steps will hold."""

    def __init__(self, plan: Plan, epoch: int) -> None:
        self._plan = plan
        self._epoch = epoch
        self.batches = plan.divided(plan.order(epoch))
        """As of `Plan.divided`."""
        self._nnz = {rows: _nnz(plan, shares) for rows, shares in self.batches.items()}

    def dispatch(self, start: int, end: int, *, origin: int = 0) -> Dispatch:
        """The dispatch of steps [start, end) of the epoch.

        Args:
            start, end: steps, counted within the epoch.
            origin: the step whose batch is the first that comes with it.
        """
        plan = self._plan
        calls, examples, tokens = [], 0, 0
        for first, stop, rows in plan.calls(start, end):
            begin = plan.whole_steps if rows == plan.last_rows else 0
            nnz = self._nnz[rows][:, first - begin : stop - begin]
            calls.append(
                Call(
                    first=first - max(begin, origin),
                    num_steps=stop - first,
                    capacity=plan.capacities[rows].holding(nnz.max(axis=(1, 2))),
                    rows=rows,
                )
            )
            examples += (stop - first) * rows
            tokens += int(nnz[:, :, : min(rows, plan.replicas)].sum())
        return Dispatch(
            epoch=self._epoch,
            step=self._epoch * plan.steps_per_epoch + start,
            num_steps=end - start,
            examples=examples,
            tokens=tokens,
            calls=tuple(calls),
        )


def training_plan(
    lengths: np.ndarray,
    *,
    batch_size: int,
    replicas: int,
    steps_per_call: int,
    seed: int | None,
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
        capacities={},
        distinct_epochs=epochs if repeating else None,
        first_share=first_share,
    )
    looked_at = min(epochs, max(1, _MAX_ROWS_LOOKED_AT // lengths.shape[1]))
    seen = _capacities(plan, range(looked_at))
    for rows, found in seen.items() if looked_at < epochs else ():
        any_order = capacities_for_any_order(lengths, rows=-(-rows // replicas))
        typical = tuple(map(max, found.typical, any_order.typical))
        seen[rows] = Capacities(typical=typical, largest=any_order.largest)
    return replace(plan, capacities=seen)


def evaluation_plan(
    lengths: np.ndarray,
    *,
    batch_size: int,
    replicas: int,
    steps_per_call: int,
    first_share: int = 0,
) -> Plan:
    """A plan that visits the rows once in stored order, with a capacity for each size of batch."""
    whole = max(1, lengths.shape[1] // batch_size)
    plan = Plan(
        lengths=lengths,
        batch_size=batch_size,
        replicas=replicas,
        steps_per_call=call_length(min(steps_per_call, whole), whole),
        seed=None,
        capacities={},
        first_share=first_share,
    )
    return replace(plan, capacities=_capacities(plan, [0]))


def _capacities(plan: Plan, epochs: Iterable[int]) -> dict[int, Capacities]:
    """For the batches of some epochs, by their number of rows."""
    found: dict[int, list[np.ndarray]] = {}
    for epoch in epochs:
        for rows, shares in plan.divided(plan.order(epoch)).items():
            found.setdefault(rows, []).append(_nnz(plan, shares).max(axis=1, keepdims=True))
    return {rows: capacity_for_batches(nnz) for rows, nnz in found.items()}


def _nnz(plan: Plan, shares: list[np.ndarray]) -> np.ndarray:
    """Ids of each replica's share of each batch, int64 [columns, steps, R].

    Args:
        plan: of the rows.
        shares: row ids of each replica, int64 [steps, its rows].
    """
    found = np.empty([len(plan.lengths), len(shares[0]), len(shares)], np.int64)
    steps = max(1, _ROWS_AT_ONCE // plan.batch_size)
    for replica, rows in enumerate(shares):
        for start in range(0, len(rows), steps):
            part = slice(start, start + steps)
            found[:, part, replica] = plan.lengths[:, rows[part]].sum(axis=2)
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
