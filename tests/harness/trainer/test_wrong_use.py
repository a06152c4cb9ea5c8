"""Wrong use from Python: one ValueError with fact, values and remedy, before training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.data.options import DataConfig
from tests.harness.random_sets import random_sets

TOKENS = 50


def rows() -> harness.RaggedSets:
    return random_sets(np.random.default_rng(), rows=60, num_tokens=TOKENS)


def model(units: int = 1) -> Callable[[Any], Any]:
    def small(inputs: Any) -> Any:
        return keras.layers.Dense(units)(harness.MultiHotDense(4, TOKENS)(inputs))

    return small


def fit(trained: Any, train: Any = None, optimizer: Any = "adam", **arguments: Any) -> None:
    own = harness.Trainer(trained, batch_size=20, implementation="gather", optimizer=optimizer)
    try:
        own.fit(train, verbose=False, **arguments)
    finally:
        assert own.step == 0


class Silent(keras.optimizers.Optimizer):
    """An optimizer that cannot be compiled: it looks at the values."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        variable.assign_sub(gradient.numpy())


class Peeking(keras.layers.Layer):
    """A layer that cannot be compiled: it leaves TensorFlow."""

    def call(self, inputs: Any) -> Any:
        doubled = tf.numpy_function(lambda x: 2 * x, [inputs], tf.float32)
        return tf.reshape(doubled, tf.shape(inputs))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def peeking(inputs: Any) -> Any:
    x = Peeking(name="peeking")(harness.MultiHotDense(4, TOKENS)(inputs))
    return keras.layers.Dense(1)(x)


def masking(inputs: Any) -> Any:
    """Computes over as many rows as have a positive number, a shape that only the data decides."""

    def centred(x: tf.Tensor) -> tf.Tensor:
        return x - tf.reduce_mean(tf.boolean_mask(x, x[:, 0] > 0))

    return keras.layers.Lambda(centred, output_shape=(1,), name="centred")(model()(inputs))


def looking_back(inputs: Any) -> Any:
    """Adds what control flow computes, whose shape TensorFlow forgets and XLA knows."""

    @tf.function(input_signature=[tf.TensorSpec([None, 1])], autograph=False)
    def signed(x: tf.Tensor) -> tf.Tensor:
        return tf.cond(tf.reduce_sum(x) > 0, lambda: 2 * x, lambda: -x)

    added = keras.layers.Lambda(lambda x: x + signed(x), output_shape=(1,))
    return keras.layers.Dense(1)(added(model()(inputs)))


def test_control_flow_trains_in_loops() -> None:
    own = harness.Trainer(looking_back, batch_size=20, implementation="gather")
    assert len(own.fit(rows(), verbose=False).history["loss"]) == 1


def test_a_shape_that_depends_on_numbers_takes_calls_of_one_step() -> None:
    own = harness.Trainer(masking, batch_size=20, implementation="gather", steps_per_dispatch=1)
    assert len(own.fit(rows(), validation=rows(), epochs=2, verbose=False).history["loss"]) == 2


def unpooled(inputs: Any) -> Any:
    return keras.layers.Dense(1)(keras.layers.Embedding(TOKENS, 2)(inputs["values"]))


def counting_padding(inputs: Any) -> Any:
    """Computes a hidden layer for each id, that is for the padding behind a batch's ids as well;
    the named cases of benchmarks.differential train layers that leave it alone, as Keras does."""

    def summed(parts: Any) -> Any:
        x, splits = parts
        rows = tf.searchsorted(splits, tf.range(tf.shape(x)[0]), side="right") - 1
        return tf.math.unsorted_segment_sum(x, rows, tf.shape(splits)[0] - 1)

    x = keras.layers.Embedding(TOKENS, 6)(inputs["values"])
    x = keras.layers.Dense(6, activation="gelu")(x)
    pooled = keras.layers.Lambda(summed, output_shape=(6,))([x, inputs["row_splits"]])
    return keras.layers.Dense(1)(pooled)


def of_texts() -> keras.Model:
    text = keras.Input(shape=(1,), dtype="string", name="text")
    words = keras.layers.TextVectorization(vocabulary=["a", "b"], output_mode="multi_hot")
    return keras.Model(text, keras.layers.Dense(1)(words(text)))


def hashing(inputs: Any) -> Any:
    words = keras.layers.TextVectorization(vocabulary=["a", "b"], output_mode="multi_hot")
    texts = keras.layers.Lambda(lambda splits: tf.strings.as_string(splits[1:]))
    return keras.layers.Dense(1)(words(texts(inputs["row_splits"])))


def broken(inputs: Any) -> Any:
    return keras.layers.Dense(1)(harness.MultiHotDense(4, TOKENS)(inputs["words"]))


class Measuring(keras.layers.Layer):
    """A layer with a metric, which Keras's fit reports."""

    def __init__(self) -> None:
        super().__init__()
        self.size = keras.metrics.Mean(name="size")

    def call(self, inputs: Any) -> Any:
        self.size.update_state(inputs)
        return inputs


class Penalized(keras.Model):
    """A model with a loss of its own, which Keras's fit computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = harness.MultiHotDense(1, TOKENS)

    def call(self, inputs: Any) -> Any:
        return self.layer(inputs)

    def compute_loss(self, **given: Any) -> Any:
        return 2 * super().compute_loss(**given)


def measuring(inputs: Any) -> Any:
    return Measuring()(model()(inputs))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: fit(model(3), rows()), r"\[None, 3\].*binary with 2 classes.*Dense\(1\)"),
        (lambda: fit(model(1), (rows(), np.arange(60.0))), "'regression' if labels are no"),
        (
            lambda: harness.Trainer(lambda inputs: model()(inputs)[:, 0]).predict(rows()),
            r"outputs of shape \[None\].*wants \[rows, 1\]",
        ),
        (lambda: fit(peeking, rows()), "layer 'peeking' cannot be compiled"),
        (lambda: fit(masking, rows()), "'centred' has .*shape depends.*steps_per_dispatch=1"),
        (lambda: fit(Penalized(), rows()), "has compute_loss of its own, which a trainer ignores"),
        (lambda: fit(measuring, rows()), "has the metric size of its own.*harness.Task"),
        (lambda: fit(broken, rows()), "cannot be called with the inputs of random"),
        (lambda: fit(unpooled, rows()), r"outputs of shape \[\d+, 1\] for \d+ rows; give one for"),
        (lambda: fit(counting_padding, rows()), r"behind `row_splits\[-1\]`.*your_own_model"),
        (lambda: fit(of_texts(), rows()), "cannot be called with the inputs of random, .*'text'"),
        (lambda: fit(hashing, rows()), "cannot be compiled: .*No registered.*on numbers"),
        (lambda: fit(model(), rows(), validation_data=rows()), "validation_data; .*validation of"),
        (lambda: fit(model(), rows(), batch_size=3), "fit has no .*batch_size; .*harness.Trainer"),
        (lambda: fit(model(), x=1, y=1), r"fit has no setting x; give rows as Examples\(inputs="),
        (lambda: harness.Trainer(model()).fit([[1]], [1]), r"a tuple, \(rows, labels\)"),
        (lambda: fit(model(), rows(), on_nam="stop"), "no setting on_nam.*on_nan"),
        (lambda: harness.Trainer(model(), batchsize=3), "no setting batchsize.*batch_size"),
        (lambda: harness.Trainer(model(), loss="mse"), "Trainer has no setting loss.*harness.Task"),
        (lambda: harness.Trainer(model()).evaluate(rows(), verbose=0), "evaluate .*verbose; only"),
        (lambda: harness.Trainer(3), "model is int"),
        (lambda: fit(model(), rows(), optimizer=Silent(0.1)), "Silent.*cannot be compiled"),
        (lambda: harness.Trainer(model(), seed=1.5), r"seed is 1\.5; it must be a whole number"),
    ],
)
def test_one_message(act: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        act()


def built(*more: str) -> keras.Model:
    dtypes = {"values": "int32", "row_splits": "int32", **dict.fromkeys(more, "float32")}
    inputs = {name: keras.Input([], dtype=dtype, name=name) for name, dtype in dtypes.items()}
    return keras.Model(inputs, model()(inputs), name="mine")


def without_weights(inputs: Any) -> Any:
    return model()({name: inputs[name] for name in ("values", "row_splits")})


def test_weights_that_a_model_does_not_take_or_lacks_are_one_message() -> None:
    plain = rows()
    weighted = plain.derived(weights=np.ones(plain.nnz, np.float32))
    lacks = "the ids of random have no weights, but the model .* takes ids with weights; give"
    for taken, sets, message in (
        (built("weights"), plain, lacks),
        (built(), weighted, "random have weights, but the model 'mine' takes ids without"),
        (without_weights, weighted, "have weights, but the model 'without_weights' takes ids"),
    ):
        own = harness.Trainer(taken, batch_size=20, implementation="gather")
        with pytest.raises(ValueError, match=message):
            own.fit(sets, verbose=False)
        with pytest.raises(ValueError, match=message):
            own.predict(sets)
    own = harness.Trainer(model(), batch_size=20, implementation="gather")
    own.fit(weighted, verbose=False)
    with pytest.raises(ValueError, match=lacks):
        own.evaluate(plain)
    with pytest.raises(ValueError, match=lacks):
        own.fit(weighted, validation=plain, verbose=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: harness.Settings(batch_size=None), "--batch-size is None; it must be a whole"),
        (lambda: harness.Settings(seed=(5,)), r"--seed is \(5,\); it must be a whole number"),
        (lambda: DataConfig(split_seed=None), "--split-seed is None; it must be a whole number"),
        (
            lambda: harness.Settings(batch_size=tf.constant(5)),  # it has `ndim`, but no `item`
            "--batch-size is .*; it must be a whole number",
        ),
        (
            lambda: DataConfig(validation_split=()),
            r"--validation-split is \(\); it must be a finite number at least",
        ),
    ],
)
def test_a_setting_of_one_number_is_neither_left_out_nor_a_tuple(
    make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(harness.InputError, match=message):
        make()


def test_numbers_of_numpy_become_pythons_in_settings() -> None:
    data = DataConfig(validation_split=np.float32(0.25), split_seed=np.int64(3))  # type: ignore[arg-type]
    assert (data.validation_split, data.split_seed) == (0.25, 3)
    assert type(data.validation_split) is float
    assert type(data.split_seed) is int
    assert DataConfig(data=Path("a.csv")).data == "a.csv"  # type: ignore[arg-type]
    with pytest.raises(harness.InputError, match="--deterministic is 1; it must be true or false"):
        harness.Settings(deterministic=1)  # type: ignore[arg-type]
