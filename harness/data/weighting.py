"""Weights of ids by how often they occur: counts, tf-idf, and L2 normalization of rows. Letters: B
rows, V num_tokens."""

import numpy as np
import numpy.typing as npt

from harness.base.errors import InputError
from harness.data.ragged import RaggedSets

Float64Array = npt.NDArray[np.float64]


def count(sets: RaggedSets) -> RaggedSets:
    """Returns the rows with each id once, weighted by its count in the row, as
    `keras.layers.TextVectorization(output_mode="count")`. Existing weights, such as earlier counts,
    are added up instead."""
    if sets.weights is None:
        if sets.is_unique:
            raise InputError(
                f"{sets.name}: its repeated ids were dropped, so there is nothing to count. Give "
                "the rows as they were before unique()."
            )
        sets = sets.derived(weights=np.ones(sets.nnz, np.float32))
    return sets.unique()


def inverse_document_frequencies(
    train: RaggedSets, *, unknown_id: int | None = None
) -> Float64Array:
    """Returns the inverse document frequencies that `tf_idf` multiplies counts by, float64 [V]:
    `log(1 + B / (1 + the rows that hold the id))`, as `keras.layers.TextVectorization.adapt` learns
    them. A row does not hold an id whose weight is 0. As in Keras, the `unknown_id` of words
    outside the vocabulary gets the mean of all other ids that occur."""
    return frequencies_of(rows_with(train), train.num_rows, unknown_id=unknown_id)


def rows_with(sets: RaggedSets) -> npt.NDArray[np.int64]:
    """Returns how many rows hold each id, int64 [V]."""
    once = sets.unique()
    held = once.values if once.weights is None else once.values[once.weights != 0]
    return np.bincount(held, minlength=sets.num_tokens)


def frequencies_of(
    rows: npt.NDArray[np.int64], num_rows: int, *, unknown_id: int | None = None
) -> Float64Array:
    """Returns `inverse_document_frequencies` by how many of `num_rows` rows hold each id, [V]."""
    found: Float64Array = np.log1p(num_rows / (1 + rows))
    if unknown_id is not None:
        is_word = rows > 0
        is_word[unknown_id] = False
        found[unknown_id] = found[is_word].mean() if is_word.any() else 0.0
    return found


def tf_idf(sets: RaggedSets, frequencies: npt.ArrayLike) -> RaggedSets:
    """Returns the rows with each id once, weighted by its count times its inverse document
    frequency, float [V], as `keras.layers.TextVectorization(output_mode="tf_idf")`."""
    frequencies = np.asarray(frequencies, np.float64)
    if frequencies.shape != (sets.num_tokens,):
        raise InputError(
            f"{sets.name}: {list(frequencies.shape)} inverse document frequencies for ids below "
            f"{sets.num_tokens}. Learn them from rows of the same vocabulary."
        )
    counts = count(sets)
    weights = np.asarray(counts.weights) * frequencies[counts.values]
    return counts.derived(weights=weights.astype(np.float32))


def l2_normalized(sets: RaggedSets) -> RaggedSets:
    """Returns the rows with each id once, each row's weights scaled to an L2 norm of 1 unless all
    are 0. Without weights, all ids of a row get the same weight."""
    sets = sets.with_weights().unique()
    weights = np.asarray(sets.weights, np.float64)
    rows = np.repeat(np.arange(sets.num_rows), sets.lengths)
    lengths = np.sqrt(np.bincount(rows, weights**2, minlength=sets.num_rows))
    weights /= np.where(lengths > 0, lengths, 1)[rows]
    return sets.derived(weights=weights.astype(np.float32))
