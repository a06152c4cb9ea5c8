"""Static lengths for the `values` buffers: few, since XLA compiles a program for each.

The order of rows is a pure function, so what the batches of a run hold is known before it begins.
Where looking at all of them takes too long, a second, larger capacity holds any batch that can be
drawn at all.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_DEVIATIONS = 4.0
"""A batch beyond this many standard deviations falls to `largest`: about 1 in 30,000."""
_MERGE_RATIO = 1.25
"""Padding that is cheaper than a second program."""
_QUANTUM = 128
"""Lengths are rounded up to whole vector registers and cache lines."""


Capacity = tuple[int, ...]
"""The static length of the `values` buffer of each ragged column."""


@dataclass(frozen=True, kw_only=True)
class Capacities:
    """The two lengths of `values` buffers in a run, in ids per share of a batch, of each ragged
    column; they may be equal, and are where every batch of the run was looked at."""

    typical: Capacity
    largest: Capacity

    def holding(self, nnz: Iterable[int]) -> Capacity:
        """The smaller of the two that holds so many ids of each column."""
        nnz = tuple(map(int, nnz))
        assert _holds(self.largest, nnz), (nnz, self.largest)
        return self.typical if _holds(self.typical, nnz) else self.largest

    @property
    def all(self) -> tuple[Capacity, ...]:
        """Each of them once."""
        return tuple(sorted({self.typical, self.largest}))


def capacities_for_any_order(lengths: np.ndarray, *, rows: int) -> Capacities:
    """Capacities for shares of `rows` rows drawn from `lengths` [columns, num_rows] in any order.

    The sum of `rows` lengths drawn without replacement has the mean `rows * mean(lengths)` and a
    deviation below `sqrt(rows) * std(lengths)`.
    """
    rows = min(rows, lengths.shape[1])
    most = [
        int(np.partition(column, len(column) - rows)[len(column) - rows :].sum())
        for column in lengths
    ]
    typical = [
        rows * column.mean() + _DEVIATIONS * np.sqrt(rows) * column.std() for column in lengths
    ]
    if all(largest <= _MERGE_RATIO * usual for largest, usual in zip(most, typical, strict=True)):
        typical = most
    return Capacities(
        typical=tuple(map(_round_up, map(min, typical, most))), largest=tuple(map(_round_up, most))
    )


def capacity_for_batches(nnz: Iterable[np.ndarray]) -> Capacities:
    """One capacity for batches whose numbers of ids are known, in arrays [columns, steps, R]."""
    most = [part.max(axis=(1, 2)) for part in nnz]
    exact = tuple(_round_up(int(column)) for column in np.max(most, axis=0, initial=0))
    return Capacities(typical=exact, largest=exact)


def _holds(capacity: Capacity, nnz: tuple[int, ...]) -> bool:
    return all(own >= needed for own, needed in zip(capacity, nnz, strict=True))


def _round_up(length: float) -> int:
    return max(1, int(np.ceil(length / _QUANTUM))) * _QUANTUM
