"""The order of rows: a pure function of (seed, epoch), so that a resumed run repeats the first one."""

import numpy as np


def epoch_order(num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """A permutation of the rows, int64 [num_rows], that depends on nothing but the arguments.

    Philox is counter-based: keyed by (seed, epoch) its streams are independent, and NumPy keeps bit
    generators stable across versions.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(num_rows)


def sequential_order(num_rows: int) -> np.ndarray:
    """The rows as they are stored, int64 [num_rows]."""
    return np.arange(num_rows, dtype=np.int64)
