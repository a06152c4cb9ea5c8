"""Static lengths for the `values` buffers: only a few, since XLA compiles a program for each.

The order of rows is a pure function, so the sizes of a run's batches are known before it begins. If
there are too many batches to look at, a second, larger capacity holds any batch that can be drawn.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_DEVIATIONS = 4.0  # that `typical` allows for; 1 batch in 30,000 needs `largest`
_MERGE_RATIO = 1.25  # up to which padding costs less than a second program
_QUANTUM = 128  # Unit that lengths are rounded up to, for whole vector registers and cache lines
Capacity = tuple[int, ...]  # The static length of the `values` buffer of each ragged column


@dataclass(frozen=True, kw_only=True)
class Capacities:
    """The two lengths of each column's buffer, equal if every batch of the run was looked at."""

    typical: Capacity
    largest: Capacity

    def holding(self, nnz: Iterable[int]) -> Capacity:
        nnz = tuple(map(int, nnz))
        assert _holds(self.largest, nnz), (nnz, self.largest)
        return self.typical if _holds(self.typical, nnz) else self.largest


def capacities_for_any_order(lengths: np.ndarray, *, rows: int) -> Capacities:
    """Returns capacities for shares of `rows` rows of `lengths` [columns, num_rows] in any order. A
    sum of lengths drawn without replacement deviates by less than `sqrt(rows) * std(lengths)`."""
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
    """Returns one capacity for batches of known numbers of ids, arrays of [columns, steps, R]."""
    most = [part.max(axis=(1, 2)) for part in nnz]
    exact = tuple(_round_up(int(column)) for column in np.max(most, axis=0, initial=0))
    return Capacities(typical=exact, largest=exact)


def _holds(capacity: Capacity, nnz: tuple[int, ...]) -> bool:
    return all(own >= needed for own, needed in zip(capacity, nnz, strict=True))


def _round_up(length: float) -> int:
    return max(1, int(np.ceil(length / _QUANTUM))) * _QUANTUM
