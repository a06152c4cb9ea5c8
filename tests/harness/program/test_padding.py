"""Layers of the user's own that compute on the padding behind a batch's ids. The named cases of
benchmarks.differential train layers that leave it alone, as Keras does."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from tests.harness.random_sets import random_sets

TOKENS, ROWS = 40, 50


class Pooled(keras.layers.Layer):
    """Sums a hidden layer's outputs over the ids of each row."""

    def build(self, shapes: Any) -> None:
        self.embedding = keras.layers.Embedding(TOKENS, 6)
        self.hidden = keras.layers.Dense(6, activation="gelu")
        self.embedding.build()
        self.hidden.build((None, 6))

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor((None, 6))

    def call(self, inputs: Any) -> Any:
        values, row_splits = inputs["values"], inputs["row_splits"]
        row = tf.searchsorted(row_splits, tf.range(tf.shape(values)[0]), side="right") - 1
        x = self.hidden(self.embedding(values))
        return tf.math.unsorted_segment_sum(x, row, tf.shape(row_splits)[0] - 1)


def test_what_counts_padding_is_refused() -> None:
    sets = random_sets(np.random.default_rng(), rows=ROWS, num_tokens=TOKENS)

    def model(inputs: Any) -> Any:
        return keras.layers.Dense(1)(Pooled()(inputs))

    with pytest.raises(harness.InputError, match=r"behind `row_splits\[-1\]`.*your_own_model"):
        harness.Trainer(model, batch_size=20).fit(sets, verbose=False)
