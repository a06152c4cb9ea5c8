"""Layers of the user's own that read the ids of a batch."""

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.feed.plan import epoch_order
from tests.harness.random_sets import random_sets

TOKENS, ROWS, BATCH = 40, 50, 20


class Pooled(keras.layers.Layer):
    """Sums vectors of the ids of each row; `mlp` transforms each vector before."""

    def __init__(self, *, mlp: bool = False) -> None:
        super().__init__()
        self.embedding = keras.layers.Embedding(TOKENS, 6)
        self.mlp = keras.layers.Dense(6, activation="gelu") if mlp else None

    def build(self, shapes: Any) -> None:
        self.embedding.build()
        if self.mlp is not None:
            self.mlp.build((None, 6))

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor((None, 6))

    def call(self, inputs: Any) -> Any:
        values, row_splits = inputs["values"], inputs["row_splits"]
        position = tf.range(tf.shape(values)[0])
        row = tf.searchsorted(row_splits, position, side="right") - 1
        x = self.embedding(values)
        if self.mlp is not None:
            x = self.mlp(x)
        return tf.math.unsorted_segment_sum(x, row, tf.shape(row_splits)[0] - 1)


def of_the_docs() -> keras.layers.Layer:
    """Makes the example layer of docs/your_own_model.md."""
    page = (Path(__file__).parents[3] / "docs" / "your_own_model.md").read_text()
    (source,) = re.findall(r"```python\n(import tensorflow.*?)\n\n\ndef pooled", page, re.DOTALL)
    found: dict[str, Any] = {"keras": keras}
    exec(source, found)
    layer: keras.layers.Layer = found["Pooled"](TOKENS, 6)
    return layer


def model_with(layer: keras.layers.Layer) -> keras.Model:
    inputs = {n: keras.Input((), dtype="int32", name=n) for n in ("values", "row_splits")}
    x = layer(inputs) + harness.MultiHotDense(6, TOKENS)(inputs)
    return keras.Model(inputs, keras.layers.Dense(1)(x))


@pytest.mark.parametrize("input_", ["stream", "resident"])
@pytest.mark.parametrize("make", [Pooled, of_the_docs])
def test_they_train_as_in_keras(make: Any, input_: Any) -> None:
    """The optimizer is Adam, to which Keras gives the gradient of each occurrence of an id."""
    sets = random_sets(np.random.default_rng(), rows=ROWS, num_tokens=TOKENS)
    model, twin = model_with(make()), model_with(make())
    twin.set_weights(model.get_weights())
    trainer = harness.Trainer(model, optimizer="adam", batch_size=BATCH, input=input_)
    trainer.fit(sets, epochs=2, verbose=False)
    twin.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    for epoch in range(2):
        order = epoch_order(ROWS, seed=0, epoch=epoch)
        for start in range(0, ROWS, BATCH):
            part = sets.take(order[start : start + BATCH])
            batch = {"values": part.values, "row_splits": part.row_splits.astype(np.int32)}
            twin.train_on_batch(tf.nest.map_structure(tf.constant, batch), part.labels[:, None])
    for own, expected in zip(trainer.model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)


def test_what_counts_padding_is_refused() -> None:
    sets = random_sets(np.random.default_rng(), rows=ROWS, num_tokens=TOKENS)
    with pytest.raises(harness.InputError, match=r"behind `row_splits\[-1\]`.*your_own_model"):
        harness.Trainer(model_with(Pooled(mlp=True)), batch_size=BATCH).fit(sets, verbose=False)
