"""Rows of which a few are so long that a run needs both capacities."""

import numpy as np

from harness.data.ragged import RaggedSets


def sets_with_outliers(rng: np.random.Generator) -> RaggedSets:
    """320 rows of 5 ids, but one of 3,000."""
    lengths = np.full(320, 5)
    lengths[rng.integers(320)] = 3_000
    splits = np.concatenate([[0], np.cumsum(lengths)])
    return RaggedSets(
        values=rng.integers(0, 40, splits[-1]),
        row_splits=splits,
        labels=rng.integers(0, 2, 320),
        num_tokens=40,
        name="outliers",
    )
