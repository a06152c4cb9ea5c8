"""Models of every form that Keras knows train: subclassed, built, with shared and frozen layers."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

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


def fit(model: Any, *, epochs: int = 2, **settings: Any) -> tuple[harness.Trainer, Any]:
    own = harness.Trainer(model, **{"batch_size": 40, "implementation": "gather", **settings})
    return own, own.fit(rows(), epochs=epochs, verbose=False).history


class Subclassed(keras.Model):
    """A model with a layer that is called twice, and one that asks whether it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.table = harness.MultiHotDense(8, TOKENS)
        self.shared = keras.layers.Dense(8, activation="tanh")
        self.noise = keras.layers.GaussianNoise(0.1)
        self.head = keras.layers.Dense(1)

    def call(self, inputs: Any, training: bool = False) -> Any:
        x = self.shared(self.shared(self.table(inputs)))
        x = self.noise(x, training=training)
        return self.head(x if training else 2.0 * x)


def test_a_subclassed_model() -> None:
    model = Subclassed()
    own, history = fit(model, epochs=3)
    assert own.model is model
    assert history["loss"][-1] < history["loss"][0]
    sets = rows()
    given = {"values": sets.values, "row_splits": sets.row_splits.astype(np.int32)}
    np.testing.assert_allclose(
        own.predict(sets), model(given, training=False), rtol=1e-4, atol=1e-5
    )


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


def test_layers_take_the_implementation_that_the_trainer_settles() -> None:
    def two(inputs: Any) -> Any:
        by_itself = harness.MultiHotDense(4, TOKENS, implementation="dense")(inputs)
        settled = harness.MultiHotDense(4, TOKENS)(inputs)
        return keras.layers.Dense(1)(keras.layers.Add()([by_itself, settled]))

    own, history = fit(two, implementation="gather", epochs=1)
    assert np.isfinite(history["loss"]).all()
    assert own.last is not None
    assert own.last.start.choices["implementation"].name == "gather"


def test_a_function_is_built_in_the_precision() -> None:
    precision = "mixed_float16"

    def small(inputs: Any) -> Any:
        x = harness.MultiHotDense(8, TOKENS, activation="gelu")(inputs)
        return keras.layers.Dense(1)(x)

    own, history = fit(small, precision=precision, epochs=3)
    assert history["loss"][-1] < history["loss"][0]
    assert own.model.layers[-1].dtype_policy.name == precision
    assert keras.config.dtype_policy().name == "float32"


def test_a_built_model_keeps_its_precision() -> None:
    given = inputs()
    outputs = keras.layers.Dense(1)(harness.MultiHotDense(4, TOKENS)(given))
    with pytest.raises(ValueError, match=r"mixed_float16.*built in float32"):
        fit(keras.Model(given, outputs), precision="mixed_float16")


def test_a_layer_of_ones_own_is_saved_and_served() -> None:
    class Scaled(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
            self.calls = self.add_weight(
                shape=(), initializer="zeros", trainable=False, name="calls"
            )

        def call(self, x: Any, training: bool = False) -> Any:
            if training:
                self.calls.assign_add(1.0)
                self.add_loss(1e-3 * tf.reduce_sum(tf.square(self.scale)))
            return x * self.scale

    def model(inputs: Any) -> Any:
        x = harness.MultiHotDense(8, TOKENS, activation="gelu")(inputs)
        return keras.layers.Dense(1)(Scaled(name="scaled")(x))

    own, _ = fit(model, epochs=2)
    assert float(own.model.get_layer("scaled").calls.numpy()) == 12
