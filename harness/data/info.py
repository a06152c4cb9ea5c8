"""What the tutorial explores of its data before it trains, as one record; nothing is printed."""

from dataclasses import dataclass

import numpy as np

from harness.data.sources import Dataset


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Figures of train and test rows together."""

    name: str
    train_rows: int
    test_rows: int
    num_tokens: int
    nnz: int
    """Ids in all rows together."""
    categories: tuple[tuple[int, int], ...]
    """(label, its rows), for each label in [0, num_classes)."""
    unique_ids: int
    """Different ids that occur."""
    is_unique: bool
    """True when the rows came without repeated ids, which the lengths below then count."""
    mean_length: float
    length_deviation: float
    """Standard deviation over all rows (divided by their number, as np.std does)."""
    min_length: int
    max_length: int
    mean_unique_length: float
    """Ids per row after `unique()`."""
    max_unique_length: int
    histogram_counts: tuple[int, ...]
    """Rows by length, in bins of equal width."""
    histogram_edges: tuple[float, ...]
    """One more than counts; a bin holds its left edge, the last one both."""
    decoded_row: str | None
    """The first row of the data as words; None when no word index is at hand."""
    vocabulary_note: str
    """Where the words come from, or why there are none."""


def explore(dataset: Dataset, *, num_bins: int = 20) -> DatasetInfo:
    """Gathers the figures. Load the data with `unique=False` to see lengths as they are on disk."""
    parts = (dataset.train, dataset.test)
    lengths = np.concatenate([part.lengths for part in parts])
    unique_lengths = np.concatenate([part.unique().lengths for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    occurs = np.zeros(dataset.num_tokens, np.bool_)
    for part in parts:
        occurs[part.values] = True
    counts, edges = np.histogram(lengths, bins=num_bins)
    first = dataset.test if dataset.test_comes_first else dataset.train
    vocabulary = dataset.vocabulary
    return DatasetInfo(
        name=dataset.name,
        train_rows=dataset.train.num_rows,
        test_rows=dataset.test.num_rows,
        num_tokens=dataset.num_tokens,
        nnz=sum(part.nnz for part in parts),
        categories=tuple(enumerate(np.bincount(labels, minlength=dataset.num_classes).tolist())),
        unique_ids=int(occurs.sum()),
        is_unique=dataset.is_unique,
        mean_length=float(lengths.mean()),
        length_deviation=float(lengths.std()),
        min_length=int(lengths.min()),
        max_length=int(lengths.max()),
        mean_unique_length=float(unique_lengths.mean()),
        max_unique_length=int(unique_lengths.max()),
        histogram_counts=tuple(counts.tolist()),
        histogram_edges=tuple(edges.tolist()),
        decoded_row=vocabulary.decode(first.row(0)) if vocabulary else None,
        vocabulary_note=dataset.vocabulary_note,
    )
