"""Counts, tf-idf and normalized rows, against Keras's layers."""

import keras
import numpy as np
import pytest

from harness.base.errors import InputError
from harness.data import weighting
from harness.data.ragged import RaggedSets
from tests.harness.data.test_ragged import to_matrix

TEXTS = ["b a a c", "", "a", "c c c d a zz", "yy xx", "d d b"]
WORDS = {"a": 3, "b": 4, "c": 5, "d": 6}
UNKNOWN, START = 2, 1


def sets_of(texts: list[str], *, start: bool = False) -> RaggedSets:
    rows = [[START] * start + [WORDS.get(w, UNKNOWN) for w in text.split()] for text in texts]
    return RaggedSets.from_lists(rows, num_tokens=8, name="texts")


def test_normalized_rows() -> None:
    """Zeros and empty rows stay; weights beyond the square root of float32's largest do not
    overflow."""
    sets = weighting.count(sets_of(TEXTS))
    for weights in (sets.weights, sets.weights * np.float32(1e30), None):
        given = sets.derived(weights=weights)
        found = to_matrix(weighting.l2_normalized(given))
        lengths = np.linalg.norm(found, axis=1)
        np.testing.assert_allclose(lengths, sets.lengths > 0, rtol=1e-6)
        expected = keras.utils.normalize(to_matrix(given.with_weights()))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    zeros = sets.derived(weights=np.zeros(sets.nnz, np.float32))
    assert not to_matrix(weighting.l2_normalized(zeros)).any()
    repeated = RaggedSets(values=[1, 1, 2], row_splits=[0, 3], num_tokens=3, weights=[1, 2, 4])
    np.testing.assert_allclose(to_matrix(weighting.l2_normalized(repeated)), [[0, 0.6, 0.8]])


def test_weights_that_are_counts_already() -> None:
    sets = sets_of(TEXTS)
    counted = weighting.count(sets)
    np.testing.assert_array_equal(to_matrix(weighting.count(counted)), to_matrix(counted))
    idf = weighting.inverse_document_frequencies(sets)
    np.testing.assert_array_equal(idf, weighting.inverse_document_frequencies(counted))
    found, expected = (weighting.tf_idf(given, idf) for given in (counted, sets))
    np.testing.assert_array_equal(to_matrix(found), to_matrix(expected))
    # An id with the weight 0 is not held.
    assert counted.weights is not None
    without = counted.derived(weights=np.where(counted.values == 3, 0, counted.weights))
    assert weighting.inverse_document_frequencies(without)[3] == np.log1p(6)


def test_what_cannot_be_weighted_is_refused() -> None:
    sets = sets_of(TEXTS)
    idf = weighting.inverse_document_frequencies(sets)
    with pytest.raises(InputError, match="texts: its repeated ids were dropped"):
        weighting.count(sets.unique())
    with pytest.raises(InputError, match="texts: its repeated ids were dropped"):
        weighting.tf_idf(sets.unique(), idf)
    with pytest.raises(InputError, match=r"\[7\] inverse document frequencies for ids below 8"):
        weighting.tf_idf(sets, idf[:7])
