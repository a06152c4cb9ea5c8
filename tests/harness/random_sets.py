"""Random labelled sets for the tests of the rooms that consume them."""

import numpy as np

from harness.data.ragged import RaggedSets


def random_sets(
    rng: np.random.Generator,
    *,
    rows: int,
    num_tokens: int = 50,
    longest: int = 12,
    num_classes: int = 2,
    unique: bool = False,
    weighted: bool = False,
) -> RaggedSets:
    """Draws rows of 0 to `longest` ids: at least one is empty, and one holds the largest id."""
    lengths = rng.integers(0, longest, rows, endpoint=True)
    lengths[rng.integers(rows)] = 0
    lengths[-1 if lengths[-1] else 0] += 1
    splits = np.concatenate([[0], np.cumsum(lengths)])
    values = rng.integers(0, num_tokens, splits[-1], dtype=np.int32)
    values[rng.integers(len(values))] = num_tokens - 1
    sets = RaggedSets(
        values=values,
        row_splits=splits,
        labels=rng.integers(0, num_classes, rows, dtype=np.int32),
        num_tokens=num_tokens,
        num_classes=num_classes,
        name="random",
        weights=rng.normal(size=len(values)) if weighted else None,
    )
    return sets.unique() if unique else sets
