"""The synthetic corpus: deterministic, shaped like IMDB, and with a signal to learn."""

import hashlib

import numpy as np
import pytest

from harness.data.options import SyntheticOptions
from harness.data.synthetic import synthetic_corpus


def test_sizes_lengths_and_ids_are_those_of_imdb() -> None:
    corpus = synthetic_corpus()
    assert (corpus.num_rows, corpus.num_tokens, corpus.num_classes) == (50_000, 10_000, 2)
    assert corpus.lengths.mean() == pytest.approx(234.7, rel=0.02)
    assert corpus.lengths.std() == pytest.approx(172.9, rel=0.05)
    assert corpus.unique().lengths.mean() == pytest.approx(130.2, rel=0.05)
    assert np.bincount(corpus.labels).tolist() == [25_000, 25_000]
    # The ids follow Keras's convention.
    assert (corpus.values[corpus.row_splits[:-1]] == 1).all()
    counts = np.bincount(corpus.values, minlength=10_000)
    assert counts[[0, 3]].tolist() == [0, 0]
    assert counts[1] == corpus.num_rows
    # Every other id occurs, as in IMDB with 10,000 words.
    assert np.count_nonzero(counts) == 9_998


def test_the_same_seed_gives_the_same_corpus_on_every_numpy() -> None:
    options = SyntheticOptions(synthetic_rows=2_000, synthetic_tokens=500, synthetic_seed=7)
    corpus = synthetic_corpus(options)
    digest = hashlib.sha256()
    for array in (corpus.values, corpus.row_splits, corpus.labels):
        digest.update(array.tobytes())
    assert digest.hexdigest() == "acd71a53c7e73b8629a097c4b787930d505ad738224a425dc08e0bbb6a964d30"
    other = synthetic_corpus(
        SyntheticOptions(synthetic_rows=2_000, synthetic_tokens=500, synthetic_seed=8)
    )
    assert not np.array_equal(other.labels, corpus.labels)
