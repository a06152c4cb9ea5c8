"""Built models keep their weights and precision, and unused layers are told. The cases of
benchmarks.differential train models of every form that Keras knows."""

from typing import Any

import keras
import numpy as np
import pytest

import harness

TOKENS = 60


def rows(count: int = 240) -> harness.RaggedSets:
    rng = np.random.default_rng()
    values = rng.integers(0, TOKENS, 5 * count)
    labels = (values.reshape(count, 5).mean(axis=1) > TOKENS / 2).astype(int)
    return harness.RaggedSets(
        values=values, row_splits=np.arange(0, 5 * count + 1, 5), labels=labels, num_tokens=TOKENS
    ).unique()


def inputs() -> dict[str, Any]:
    return {
        name: keras.Input(batch_shape=(None,), dtype="int32", name=name)
        for name in ("values", "row_splits")
    }


def test_a_built_model_starts_from_its_weights() -> None:
    given = inputs()
    x = harness.MultiHotDense(4, TOKENS)(given)
    model = keras.Model(given, keras.layers.Dense(1, activation="sigmoid")(x))
    model.set_weights([np.full(w.shape, 0.01, np.float32) for w in model.get_weights()])
    sets = rows()
    own = harness.Trainer(model, batch_size=40, implementation="gather")
    before = own.predict(sets)
    expected = 1 / (1 + np.exp(-(4 * 0.01 * (0.01 * sets.lengths + 0.01) + 0.01)))
    np.testing.assert_allclose(before[:, 0], expected, rtol=1e-5)
    own.fit(sets, verbose=False)
    assert own.model is model
    given_rows = {"values": sets.values, "row_splits": sets.row_splits.astype(np.int32)}
    np.testing.assert_allclose(own.predict(sets), model(given_rows), rtol=1e-4)


def test_frozen_and_unused_layers(capsys: pytest.CaptureFixture[str]) -> None:
    given = inputs()
    frozen = harness.MultiHotDense(4, TOKENS, name="frozen")
    x = frozen(given)
    frozen.trainable = False
    normalized = keras.layers.BatchNormalization(name="averages")(x)
    outputs = keras.layers.Dense(1)(normalized)

    class Idle(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = keras.Model(given, outputs)
            self.idle = keras.layers.Dense(3, name="idle")
            self.idle.build([None, 3])

        def call(self, inputs: Any, training: bool = False) -> Any:
            return self.inner(inputs, training=training)

    model = Idle()
    before = frozen.kernel.numpy()
    own = harness.Trainer(model, batch_size=40, implementation="gather")
    own.fit(rows(), epochs=2)
    np.testing.assert_array_equal(frozen.kernel.numpy(), before)
    averages = model.inner.get_layer("averages")
    assert np.abs(averages.moving_mean.numpy()).max() > 0
    printed = capsys.readouterr().out
    assert "idle/kernel" in printed
    assert "warning" in printed
