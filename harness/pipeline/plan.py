"""What every dispatch of a run will hold, computed on the host before any tensor exists.

Letters: B rows of a global batch, R replicas, S steps of a dispatch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from harness.pipeline.capacity import Capacities, capacities_for_any_order, capacity_for_batches
from harness.pipeline.order import epoch_order, sequential_order


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """One call of the compiled function: up to S consecutive steps of one epoch."""

    epoch: int
    step: int
    """Optimizer steps done before it, over all epochs."""
    num_steps: int
    examples: int
    """Real rows; an epoch's last batch is padded with rows of weight 0."""
    tokens: int
    capacity: int
    """Static length of the `values` buffer of one replica's batch."""
    first: int = 0
    """Which of the batches that come with it is its first."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Divides epochs into batches and dispatches; a step's rows depend on (seed, epoch, step)."""

    lengths: np.ndarray
    """Ids per row, int64 [num_rows]."""
    batch_size: int
    """B, over all replicas."""
    replicas: int
    steps_per_dispatch: int
    seed: int | None
    """None: the rows in stored order."""
    capacities: Capacities

    @property
    def num_rows(self) -> int:
        """Rows of the data set; also the index of the empty row that pads an epoch."""
        return len(self.lengths)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that visit every row once, the padded last one included."""
        return -(-self.num_rows // self.batch_size)

    @property
    def dispatches_per_epoch(self) -> int:
        """Dispatches that visit every row once."""
        return -(-self.steps_per_epoch // self.steps_per_dispatch)

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's rows, padded to whole batches with the empty row, int64 [steps * B]."""
        if self.seed is None:
            rows = sequential_order(self.num_rows)
        else:
            rows = epoch_order(self.num_rows, seed=self.seed, epoch=epoch)
        padding = self.steps_per_epoch * self.batch_size - self.num_rows
        return np.concatenate([rows, np.full(padding, self.num_rows)])

    def dispatches(self, epoch: int, *, first_step: int = 0) -> Iterator[Dispatch]:
        """The epoch's dispatches, from its step `first_step` on."""
        planned = EpochPlan(self, epoch)
        for start in range(first_step, self.steps_per_epoch, self.steps_per_dispatch):
            end = min(start + self.steps_per_dispatch, self.steps_per_epoch)
            yield planned.dispatch(start, end)


class EpochPlan:
    """One epoch of a plan: its order, and what any stretch of its steps will hold."""

    def __init__(self, plan: Plan, epoch: int) -> None:
        self._plan = plan
        self._epoch = epoch
        self.order = plan.order(epoch)
        """The epoch's rows, padded to whole batches with the empty row, int64 [steps * B]."""
        self._nnz = _nnz_per_batch(plan, self.order)

    def dispatch(self, start: int, end: int, *, first: int = 0) -> Dispatch:
        """The dispatch of steps [start, end) of the epoch.

        Args:
            start, end: steps, counted within the epoch.
            first: which of the batches that come with it is that of step `start`.
        """
        plan, nnz = self._plan, self._nnz[start:end]
        return Dispatch(
            epoch=self._epoch,
            step=self._epoch * plan.steps_per_epoch + start,
            num_steps=end - start,
            examples=min(end * plan.batch_size, plan.num_rows) - start * plan.batch_size,
            tokens=int(nnz.sum()),
            capacity=plan.capacities.holding(int(nnz.max())),
            first=first,
        )

    def end_of_capacity(self, start: int) -> int:
        """The first step after `start` whose batch needs another capacity; else the last's end."""
        usual = self._nnz.max(axis=1) <= self._plan.capacities.typical
        others = np.flatnonzero(usual[start:] != usual[start])
        return start + int(others[0]) if len(others) else len(usual)


def training_plan(
    lengths: np.ndarray, *, batch_size: int, replicas: int, steps_per_dispatch: int, seed: int
) -> Plan:
    """A plan whose order is drawn anew for every epoch."""
    capacities = capacities_for_any_order(lengths, rows=batch_size // replicas)
    return Plan(
        lengths=lengths,
        batch_size=batch_size,
        replicas=replicas,
        steps_per_dispatch=steps_per_dispatch,
        seed=seed,
        capacities=capacities,
    )


def evaluation_plan(
    lengths: np.ndarray, *, batch_size: int, replicas: int, steps_per_dispatch: int
) -> Plan:
    """A plan that visits the rows once in stored order, with a single capacity."""
    plan = Plan(
        lengths=lengths,
        batch_size=batch_size,
        replicas=replicas,
        steps_per_dispatch=steps_per_dispatch,
        seed=None,
        capacities=Capacities(typical=0, largest=0),
    )
    exact = capacity_for_batches(_nnz_per_batch(plan, plan.order(0)))
    return replace(plan, capacities=exact)


def _nnz_per_batch(plan: Plan, order: np.ndarray) -> np.ndarray:
    """Ids of each replica's batch of each step, int64 [steps, R]."""
    lengths = np.append(plan.lengths, 0)[order]
    rows = plan.batch_size // plan.replicas
    return lengths.reshape(plan.steps_per_epoch, plan.replicas, rows).sum(axis=2)
