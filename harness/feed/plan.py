"""Plans the contents of every dispatch of a run, on the host, before any tensor exists.

If the batch size does not divide the rows, an epoch's last batch is smaller, as in Keras, so that a
model never sees padding rows. That batch has a program of its own, of one step. Only a prediction
may fill it, where the model's rows do not depend on each other.
Letters: B rows of a global batch, b rows of a replica, R replicas, L steps of a call.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.feed.capacity import Capacities, Capacity, capacities_for_any_order, rounded_up

BLOCK_ROWS, WINDOW_BLOCKS = 1_024, 64  # Rows of a block, and blocks of a window, in `block_order`
_ROWS_AT_ONCE = 2**18  # Number of rows whose lengths are looked up at a time
_MAX_ROWS_LOOKED_AT = 2**21  # over all epochs; beyond, there are two capacities

_LEAST_ROWS = 8  # of a batch in a plan that shares its programs


# The stream and the loop walk the same epochs, and near an epoch's end the stream is one ahead.
@functools.lru_cache(maxsize=2)
def epoch_order(num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns a permutation of the rows, read-only int64 [num_rows], that depends only on the
    arguments.

    Philox is counter-based: keyed by (seed, epoch) its streams are independent. The rows are sorted
    by its raw output, which NumPy keeps stable across versions, unlike `Generator.permutation`
    (NEP 19). Two of its 64-bit keys are equal in one of 3 * 10**7 epochs of 10**6 rows.
    """
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(num_rows)
    order = np.argsort(keys)
    order.flags.writeable = False
    return order


@functools.lru_cache(maxsize=2)
def block_order(num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns a permutation of the rows, read-only int64 [num_rows], that suits reading from a
    disk: of blocks of 1,024 adjacent rows, then of rows within windows of 64 blocks. So a batch
    reads from 64 places instead of one for each row, and any two rows meet in some epochs."""
    blocks = epoch_order(-(-num_rows // BLOCK_ROWS), seed=seed, epoch=epoch)
    random = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).jumped()
    order = np.empty(num_rows, np.int64)
    done = 0
    # One window at a time, because sorting all rows would take several times their memory.
    for first in range(0, len(blocks), WINDOW_BLOCKS):
        starts = BLOCK_ROWS * blocks[first : first + WINDOW_BLOCKS]
        rows = (starts[:, None] + np.arange(BLOCK_ROWS)).reshape(-1)
        rows = rows[rows < num_rows]
        order[done : done + len(rows)] = rows[np.argsort(random.random_raw(len(rows)))]
        done += len(rows)
    order.flags.writeable = False
    return order


def shares_of(rows: int, replicas: int) -> list[int]:
    """Returns how many rows of a batch each replica gets; the first ones get one more if needed. A
    replica without rows takes part in the sums with another one's row and the weight 0."""
    return [len(part) for part in np.array_split(np.arange(rows), replicas)]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a compiled program; all fields except `first` are constants of the program."""

    first: int  # Place of the call's first batch among the dispatch's batches of this size
    num_steps: int
    capacity: Capacity  # Length of `values` in one replica's batch, for each column
    rows: int  # Rows of each batch, over all replicas


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """Consecutive steps of an epoch that end in a host sync, unless a GPU runs on to the next."""

    epoch: int
    step: int  # Optimizer steps before it, over all epochs
    num_steps: int
    batch_size: int  # Rows of a whole batch, over all replicas
    examples: int
    tokens: int
    calls: tuple[Call, ...]  # The calls that run the steps, in order


@dataclass(kw_only=True, eq=False)
class Plan:
    """Divides epochs into batches and calls; a step's rows depend on (seed, epoch, step)."""

    lengths: np.ndarray  # ids in each row of each ragged column, int64 [columns, num_rows]
    batch_size: int  # B, over all replicas
    replicas: int  # R, over all workers
    steps_per_call: int
    """L. Dispatches and calls begin at multiples of it, counted from the epoch's first step. An
    epoch's last, smaller batch is a call of its own."""
    seed: int | None  # Seed of the order; None keeps rows in stored order
    epochs: int  # Number of epochs that the run has
    in_blocks: bool = False  # Whether `block_order` permutes the rows
    repeating: bool = False  # Whether the order of the first epoch may follow again after the last
    first_share: int = 0  # First replica that this process has a device for
    shares_programs: bool = False
    """Whether plans of other numbers of rows need the same few programs: the last batch is filled
    by its shortest row, to a power of two of rows, at least 8, and capacities are powers of two."""
    stored_rows: int = field(init=False)
    num_rows: int = field(init=False)  # which an epoch visits, with those that fill a batch
    whole_steps: int = field(init=False)  # Steps of an epoch with B rows
    last_rows: int = field(init=False)  # Rows of its last, smaller batch; 0 without any
    steps_per_epoch: int = field(init=False)
    capacities: Mapping[int, Capacities] = field(init=False)
    """The capacities by the rows of a batch: B, and an epoch's last."""

    def __post_init__(self) -> None:
        self.num_rows = int(self.lengths.shape[1])
        self.stored_rows = self.num_rows
        if self.shares_programs and (rest := self.num_rows % self.batch_size):
            missing = min(power_of_two(rest, _LEAST_ROWS), self.batch_size) - rest
            self._filler = self.num_rows - rest + self.lengths[:, -rest:].sum(axis=0).argmin()
            more = np.repeat(self.lengths[:, [self._filler]], missing, axis=1)
            self.lengths = np.concatenate([self.lengths, more], axis=1)
            self.num_rows += missing
        self.whole_steps, self.last_rows = divmod(self.num_rows, self.batch_size)
        self.steps_per_epoch = self.whole_steps + (self.last_rows > 0)
        self.steps_per_call = min(self.steps_per_call, self.steps_per_epoch)
        self.capacities = self._capacities()

    def order(self, epoch: int) -> np.ndarray:
        """Returns the epoch's rows in order, int64 [num_rows]. Step k has the places [k*B,
        (k+1)*B), which replicas divide in order, as `shares_of` says."""
        if self.seed is None:
            rows = np.arange(self.num_rows)
            if self.num_rows > self.stored_rows:
                rows[self.stored_rows :] = self._filler
            return rows
        drawn = epoch % self.epochs if self.repeating else epoch
        order = block_order if self.in_blocks else epoch_order
        return order(self.num_rows, seed=self.seed, epoch=drawn)

    def divided(self, order: np.ndarray) -> dict[int, list[np.ndarray]]:
        """Returns an epoch's batches by their size, for each replica int64 [steps, its rows]."""
        end = self.whole_steps * self.batch_size
        whole = order[:end].reshape(-1, self.replicas, self.batch_size // self.replicas)
        found = {self.batch_size: list(whole.swapaxes(0, 1))} if end else {}
        if self.last_rows:
            parts = np.array_split(order[end:], self.replicas)
            # A replica without rows gets a row of another one.
            found[self.last_rows] = [(p if p.size else order[end : end + 1])[None] for p in parts]
        return found

    def _capacities(self) -> dict[int, Capacities]:
        # 1. The epochs that can be looked at have one exact capacity.
        looked_at = min(self.epochs, max(1, _MAX_ROWS_LOOKED_AT // self.num_rows))
        exact: dict[int, np.ndarray] = {}
        for epoch in range(looked_at):
            for rows, shares in self.divided(self.order(epoch)).items():
                most = _nnz(self, shares).max(axis=(1, 2))
                exact[rows] = np.maximum(exact.get(rows, most), most)
        # 2. Later ones may hold a fuller batch: a second capacity has room for any.
        found = {}
        for rows, most in exact.items():
            typical = largest = rounded_up(most)
            if self.shares_programs:
                typical = largest = tuple(map(power_of_two, largest))
            if looked_at < self.epochs:
                any_order = capacities_for_any_order(self.lengths, rows=-(-rows // self.replicas))
                typical, largest = tuple(map(max, typical, any_order.typical)), any_order.largest
            found[rows] = Capacities(typical, largest)
        return found

    def dispatch_end(self, step: int, *, calls: int = 1) -> int:
        """Returns the step of an epoch at which a dispatch of `calls` calls from `step` on ends.
        An epoch's last, smaller batch ends the dispatch before it: alone it would be a window too
        short to time. Only dispatches of one step leave it apart."""
        end = (step // self.steps_per_call + calls) * self.steps_per_call
        takes_last = end >= self.whole_steps and calls * self.steps_per_call > 1
        return self.steps_per_epoch if takes_last else min(end, self.steps_per_epoch)

    def calls(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yields each call of the steps [start, end): its first step, its end, a batch's rows."""
        while start < end:
            whole = start < self.whole_steps
            limit = (start // self.steps_per_call + 1) * self.steps_per_call
            stop = min(limit, end, self.whole_steps) if whole else end
            yield start, stop, self.batch_size if whole else self.last_rows
            start = stop

    def programs(self, *, start_step: int = 0) -> tuple[Call, ...]:
        """Returns a call of each kind that a run from `start_step` may make, with B rows first."""
        first, end = start_step % self.steps_per_epoch, self.steps_per_epoch
        calls = itertools.chain(self.calls(first, end), self.calls(0, end))
        kinds = {(rows, stop - start) for start, stop, rows in calls}
        return tuple(
            Call(first=0, num_steps=num_steps, capacity=capacity, rows=rows)
            for rows, num_steps in sorted(kinds, reverse=True)
            for capacity in sorted(set(self.capacities[rows]))
        )


class EpochPlan:
    def __init__(self, plan: Plan, epoch: int) -> None:
        self._plan = plan
        self._epoch = epoch
        self.batches = plan.divided(plan.order(epoch))  # row ids, as `Plan.divided` has them
        self._nnz = {rows: _nnz(plan, shares) for rows, shares in self.batches.items()}

    def dispatch(self, start: int, end: int, *, origin: int = 0) -> Dispatch:
        """Returns the dispatch of the steps [start, end), whose batches begin at step `origin`."""
        plan = self._plan
        calls, examples, tokens = [], 0, 0
        for first, stop, rows in plan.calls(start, end):
            # Each size of batch has arrays of its own: those of the last batch begin at its step.
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
            # Replicas without rows of their own repeat a row of another's, which does not count.
            tokens += int(nnz[:, :, : min(rows, plan.replicas)].sum())
        return Dispatch(
            epoch=self._epoch,
            step=self._epoch * plan.steps_per_epoch + start,
            num_steps=end - start,
            batch_size=plan.batch_size,
            examples=examples,
            tokens=tokens,
            calls=tuple(calls),
        )


def evaluation_plan(
    lengths: np.ndarray, *, batch_size: int, steps_per_call: int, **how: Any
) -> Plan:
    """Returns a plan that visits the rows once in stored order, with a capacity per batch size."""
    whole = max(1, lengths.shape[1] // batch_size)
    steps = call_length(min(steps_per_call, whole), whole)
    how |= {"batch_size": batch_size, "steps_per_call": steps}
    return Plan(lengths=lengths, seed=None, epochs=1, **how)


def call_length(most: int, steps: int) -> int:
    """Returns a call's length: `most`, or a divisor of `steps` that is near, for one program."""
    divisor = next(n for n in range(most, 0, -1) if steps % n == 0)
    return divisor if 2 * divisor >= most else most


def prediction_plan(lengths: np.ndarray, *, batch_size: int, replicas: int, **how: Any) -> Plan:
    """Returns a plan that visits the rows once in stored order, by programs that also serve other
    numbers of rows."""
    batch_size = min(batch_size, power_of_two(lengths.shape[1], _LEAST_ROWS))
    batch_size = -(-batch_size // replicas) * replicas
    how |= {"batch_size": batch_size, "replicas": replicas, "shares_programs": True}
    return Plan(lengths=lengths, seed=None, epochs=1, steps_per_call=1, **how)


def power_of_two(number: int, least: int = 1) -> int:
    """Returns the smallest power of two that is at least both numbers."""
    return 1 << (max(number, least) - 1).bit_length()


def _nnz(plan: Plan, shares: list[np.ndarray]) -> np.ndarray:
    """Returns the ids in each replica's share of each batch, int64 [columns, steps, R]."""
    found = np.empty([len(plan.lengths), len(shares[0]), len(shares)], np.int64)
    # A few steps at a time: the lengths of all rows in a new order would be another copy of them.
    steps = max(1, _ROWS_AT_ONCE // plan.batch_size)
    for replica, rows in enumerate(shares):
        for start in range(0, len(rows), steps):
            part = slice(start, start + steps)
            found[:, part, replica] = plan.lengths[:, rows[part]].sum(axis=2)
    return found


def epochs_from(plan: Plan, *, start_step: int, epochs: int) -> Iterator[tuple[int, int]]:
    """Yields each of a run's `epochs` epochs from a step on, and the step within it to begin at."""
    first_epoch, first_step = divmod(start_step, plan.steps_per_epoch)
    for epoch in range(first_epoch, epochs):
        yield epoch, first_step if epoch == first_epoch else 0
