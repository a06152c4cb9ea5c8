"""The softmax over the items of a batch, against NumPy."""

import keras
import numpy as np
import pytest

from harness.base.errors import InputError
from harness.model.in_batch import InBatchSoftmax


@pytest.mark.parametrize("with_numbers", [False, True])
def test_each_row_is_compared_with_the_items_of_the_batch(with_numbers: bool) -> None:
    rng = np.random.default_rng()
    users, items = rng.normal(size=[2, 7, 3]).astype(np.float32)
    numbers = rng.integers(0, 4, [7, 1]).astype(np.float32)
    layer = InBatchSoftmax(temperature=0.5)
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    scores = users @ items.T / 0.5
    if with_numbers:  # another row's equal item is no negative
        scores[(numbers == numbers.T) & ~np.eye(7, dtype=bool)] = -np.inf
    expected = scores.diagonal() - np.log(np.exp(scores).sum(axis=1))
    for each in (layer, again):
        found = each([users, items, *[numbers] * with_numbers])
        np.testing.assert_allclose(found, expected[:, None], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="temperature is 0; give a number above 0"):
        InBatchSoftmax(temperature=0)
