"""Static lengths for the `values` buffers: only a few, since XLA compiles a program for each.

The order of rows is a pure function, so the sizes of a run's batches are known before it begins. If
there are too many batches to look at, a second, larger capacity holds any batch that can be drawn.
"""

from typing import NamedTuple

import numpy as np

_DEVIATIONS = 4.0  # that `typical` allows for; 1 batch in 30,000 needs `largest`
_MERGE_RATIO = 1.25  # up to which padding costs less than a second program
_QUANTUM = 128  # Unit that lengths are rounded up to, for whole vector registers and cache lines
Capacity = tuple[int, ...]  # The static length of the `values` buffer of each ragged column


class Capacities(NamedTuple):
    """The two lengths of each column's buffer, equal if every batch of the run was looked at."""

    typical: Capacity
    largest: Capacity

    def holding(self, nnz: np.ndarray) -> Capacity:
        return next(own for own in self if (nnz <= np.array(own)).all())


def capacities_for_any_order(lengths: np.ndarray, *, rows: int) -> Capacities:
    """Returns capacities for shares of `rows` rows of `lengths` [columns, num_rows] in any order. A
    sum of lengths drawn without replacement deviates by less than `sqrt(rows) * std(lengths)`."""
    rows = min(rows, lengths.shape[1])
    most = np.partition(lengths, -rows, axis=1)[:, -rows:].sum(axis=1)
    typical = rows * lengths.mean(axis=1) + _DEVIATIONS * np.sqrt(rows) * lengths.std(axis=1)
    are_near = (most <= _MERGE_RATIO * typical).all()
    return Capacities(rounded_up(most if are_near else np.minimum(typical, most)), rounded_up(most))


def rounded_up(lengths: np.ndarray) -> Capacity:
    quanta = np.maximum(1, np.ceil(lengths / _QUANTUM))
    return tuple((quanta * _QUANTUM).astype(np.int64).tolist())
