"""Static lengths for the `values` buffers: few, since XLA compiles a program for each.

Two suffice. `typical` holds almost every batch of a shuffled epoch; `largest` holds any batch that
can be drawn at all, so that an outlier costs one more compilation and never fails.
"""

from dataclasses import dataclass

import numpy as np

_DEVIATIONS = 4.0
"""A batch beyond this many standard deviations falls to `largest`: about 1 in 30,000."""
_MERGE_RATIO = 1.25
"""Padding that is cheaper than a second program."""
_QUANTUM = 128
"""Lengths are rounded up to whole vector registers and cache lines."""


@dataclass(frozen=True, kw_only=True)
class Capacities:
    """The two lengths of `values` buffers in a run, in ids per replica; they may be equal."""

    typical: int
    largest: int

    def holding(self, nnz: int) -> int:
        """The smaller of the two that holds `nnz` ids."""
        assert nnz <= self.largest, (nnz, self.largest)
        return self.typical if nnz <= self.typical else self.largest


def capacities_for_any_order(lengths: np.ndarray, *, rows: int) -> Capacities:
    """Capacities for batches of `rows` rows drawn from `lengths` [num_rows] in any order.

    The sum of `rows` lengths drawn without replacement has the mean `rows * mean(lengths)` and a
    deviation below `sqrt(rows) * std(lengths)`.
    """
    rows = min(rows, len(lengths))
    longest = np.partition(lengths, len(lengths) - rows)[len(lengths) - rows :]
    largest = int(longest.sum())
    typical = rows * lengths.mean() + _DEVIATIONS * np.sqrt(rows) * lengths.std()
    if largest <= _MERGE_RATIO * typical:
        typical = largest
    return Capacities(typical=_round_up(typical), largest=_round_up(largest))


def capacity_for_batches(nnz: np.ndarray) -> Capacities:
    """One capacity for batches whose numbers of ids are known, as in an evaluation's order."""
    exact = _round_up(int(nnz.max(initial=0)))
    return Capacities(typical=exact, largest=exact)


def _round_up(length: float) -> int:
    return max(1, int(np.ceil(length / _QUANTUM))) * _QUANTUM
