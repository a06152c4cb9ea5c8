"""How the elements of a tensor spread, for a histogram."""

import numpy as np

from harness.records import Distribution

NUM_BINS = 30
"""TensorBoard's own number."""


def distribution(name: str, values: np.ndarray) -> Distribution:
    """How `values`, in float32 or less, spread over NUM_BINS bins of equal width, from the least to
    the greatest; what is not finite is counted apart."""
    finite = values[np.isfinite(values)].astype(np.float64)  # float32 could overflow in the range
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    if low == high:
        # As wide as NumPy has it, unless the value is so large that the edges would coincide.
        margin = max(0.5, 1e-6 * abs(low))
        low, high = low - margin, high + margin
    counts, edges = np.histogram(finite, bins=NUM_BINS, range=(low, high))
    return Distribution(
        name=name,
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        num_non_finite=values.size - finite.size,
    )
