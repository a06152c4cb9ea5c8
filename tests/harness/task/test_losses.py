"""Losses and metrics get the same as from Keras's `compile`, or are refused."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.base.errors import InputError
from tests.harness.task.test_task import ragged, rows, settled

pytestmark = pytest.mark.usefixtures("logical_devices")


class Subclass(keras.Model):
    """A model that ends in an activation of Keras, in one of TensorFlow, or in none."""

    def __init__(self, units: int, end: Callable[[Any], Any]) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(units, kernel_initializer="ones")
        self.end = end

    def call(self, inputs: Any) -> Any:
        return self.end(self.dense(inputs))


def functional(units: int, head: str, dtype: str = "float32") -> keras.Model:
    inputs = keras.Input([units])
    x = keras.layers.Dense(units, dtype=dtype, activation=head)(inputs)
    return keras.Model(inputs, x)


FORMS: dict[str, Callable[[int, str], keras.Model]] = {
    "functional": functional,
    "bfloat16": lambda units, head: functional(units, head, "mixed_bfloat16"),
    "subclass": lambda units, head: Subclass(units, keras.activations.get(head)),
    "tf": lambda units, head: Subclass(units, getattr(tf.nn, head)),
    "linear": lambda units, head: functional(units, "linear"),
}


def by_sum(y: Any, p: Any) -> Any:
    return keras.ops.max(keras.ops.square(y - p))


def of_logits(y: Any, z: Any) -> Any:
    return keras.losses.binary_crossentropy(y, z, from_logits=True)


def of_classes(y: Any, p: Any) -> Any:
    return keras.losses.sparse_categorical_crossentropy(y, p) ** 2


EVERY = ("functional", "bfloat16", "subclass", "tf")
BINARY: list[Any] = [
    "binary_crossentropy",
    keras.losses.BinaryCrossentropy(label_smoothing=0.2),
    keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True),
    *("hinge", "poisson", "mae", "dice", keras.losses.Huber, by_sum),
]


@pytest.mark.parametrize(
    ("kind", "form", "loss"),
    [
        *(("binary", form, loss) for form in EVERY for loss in BINARY[:2]),
        *(("binary", "functional", loss) for loss in BINARY[2:]),
        ("multi_label", "subclass", BINARY[0]),
        *(("multi_label", "functional", loss) for loss in BINARY[1:3]),
        *(("multi_class", form, "sparse_categorical_crossentropy") for form in EVERY[1:]),
        ("multi_class", "functional", of_classes),
        ("binary", "linear", keras.losses.BinaryCrossentropy(from_logits=True)),
        ("binary", "linear", of_logits),
        ("binary", "linear", functools.partial(of_logits)),
        ("binary", "linear", lambda y, p: keras.ops.square(y - p)),
        ("multi_class", "linear", keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        *(("regression", "linear", loss) for loss in ("mse", "msle", "mape")),
        *(("regression", "functional", loss) for loss in ("cosine_similarity", by_sum)),
    ],
)
def test_losses_are_those_of_keras_compile(kind: str, form: str, loss: Any) -> None:
    units = 1 if kind == "binary" else 4
    rng = np.random.default_rng()
    task = settled(kind, 4, loss=loss)
    model = FORMS[form](units, "softmax" if kind == "multi_class" else "sigmoid")
    model.compile(loss=loss() if isinstance(loss, type) else loss)
    x = rng.normal(scale=2, size=[30, units]).astype(np.float32)
    labels = {
        "binary": rng.integers(0, 2, [30, 1]),
        "multi_class": rng.integers(0, 4, 30),
        "multi_label": rng.integers(0, 2, [30, 4]),
        "regression": rng.normal(size=[30, 4]),
    }[kind].astype(np.float32)
    weights = rng.uniform(0, 2, 30).astype(np.float32)

    @tf.function(autograph=False)
    def losses() -> tuple[Any, ...]:
        outputs = model(x, training=True)
        judged = task.compute_loss(labels, outputs)
        keras_of = functools.partial(model.compute_loss, y=labels, y_pred=outputs)
        theirs = keras_of(), keras_of(sample_weight=weights)
        return judged.of_rows, judged.probabilities, outputs, theirs

    own, given, outputs, (plain, weighted) = losses()
    assert own.shape == (30,)
    np.testing.assert_allclose(tf.reduce_mean(own), plain, rtol=2e-5)
    np.testing.assert_allclose(tf.reduce_mean(own * weights), weighted, rtol=2e-5)
    if form != "linear" or kind == "regression":
        np.testing.assert_array_equal(given, tf.cast(outputs, tf.float32))
    assert task.loss_is_of_batch == (loss in ("dice", by_sum))


@pytest.mark.parametrize("kind", ["binary", "multi_class"])
def test_probabilities_of_16_bits_are_right_as_in_keras(kind: str) -> None:
    units = 1 if kind == "binary" else 3
    model = FORMS["bfloat16"](units, "sigmoid" if kind == "binary" else "softmax")
    x = np.random.default_rng().normal(scale=0.01, size=[200, units]).astype(np.float32)
    labels = np.arange(200) % 2
    outputs = tf.function(lambda: model(x), autograph=False)
    task = settled(kind, 3)
    hits = tf.function(lambda: task.compute_loss(labels, model(x)).hits[0], autograph=False)()
    accuracy = keras.metrics.BinaryAccuracy if kind == "binary" else None
    metric = (accuracy or keras.metrics.SparseCategoricalAccuracy)()
    metric.update_state(labels[:, None], outputs())
    assert float(tf.reduce_mean(hits)) == pytest.approx(float(metric.result()))


def hidden(x: Any) -> Any:
    return tf.function(tf.nn.sigmoid)(x)


def masked(units: int) -> keras.Model:
    inputs = keras.Input([units])
    return keras.Model(inputs, keras.layers.Dense(units)(keras.layers.Masking()(inputs)))


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        (
            lambda: Subclass(1, keras.activations.tanh),
            None,
            r"ends in Tanh, .*BinaryCrossentropy\(from_logits=\.\.\.\), .*True for logits; or end "
            "the model with a sigmoid, or .* regression takes outputs",
        ),
        (lambda: Subclass(1, hidden), None, "ends in .*PartitionedCall, and"),
        (lambda: masked(1), None, "outputs have a mask.*the weight 0"),
        (
            lambda: functional(1, "sigmoid"),
            keras.losses.BinaryFocalCrossentropy(from_logits=True),
            "'binary_focal_crossentropy' takes logits, but the model gives probabilities",
        ),
    ],
)
def test_outputs_that_keras_reads_in_another_way_are_refused(
    model: Callable[[], keras.Model], loss: Any, message: str
) -> None:
    task, own = settled("binary", loss=loss), model()
    x, labels = np.ones([2, 1], np.float32), np.array([0, 1])
    with pytest.raises(InputError, match=message):
        tf.function(lambda: task.compute_loss(labels, own(x)).of_rows, autograph=False)()


def dense(units: int, activation: str | None = "sigmoid") -> keras.layers.Dense:
    return keras.layers.Dense(units, activation=activation)


def mixture(x: Any) -> Any:
    """Two experts with a gate, [rows, 3]."""
    experts = keras.ops.stack([dense(3)(x), dense(3)(x)], axis=1)
    return keras.ops.sum(dense(2, "softmax")(x)[:, :, None] * experts, axis=1)


class Tree(keras.layers.Layer):
    """The last part of keras.io's neural decision tree, of two leaves."""

    def build(self, shape: Any) -> None:
        self.leaves = self.add_weight(shape=[2, 3])

    def call(self, inputs: Any) -> Any:
        to_the_left = keras.ops.sigmoid(inputs[:, :1])
        reached = keras.ops.concatenate([to_the_left, 1 - to_the_left], axis=1)
        return keras.ops.matmul(reached, keras.ops.softmax(self.leaves))


PROBABILITIES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "concatenate": (
        "multi_label",
        lambda x: keras.layers.Concatenate()([dense(1)(x) for _ in range(3)]),
    ),
    "average": (
        "multi_class",
        lambda x: keras.layers.Average()([dense(3, "softmax")(x) for _ in range(2)]),
    ),
    "flatten": ("binary", lambda x: keras.layers.Flatten()(dense(1)(x))),
    "hard sigmoid": ("binary", dense(1, "hard_sigmoid")),
    "tree": ("multi_class", lambda x: Tree()(x)),
    "forest": ("multi_class", lambda x: keras.layers.Average()([Tree()(x), Tree()(x)])),
    "product": ("binary", lambda x: dense(1)(x) * dense(1)(x)),
    "mixture": ("multi_label", mixture),
    "clip": ("binary", lambda x: keras.ops.clip(dense(1)(x), 0.01, 0.99)),
    "maximum": ("binary", lambda x: keras.ops.maximum(dense(1)(x), dense(1)(x))),
    "squeeze": ("binary", lambda x: keras.ops.squeeze(dense(1)(x[:, None]), 1)),
    "slice": ("binary", lambda x: dense(2, "softmax")(x)[:, :1]),
    "complement": ("binary", lambda x: 1 - dense(1)(x)),
    "tanh": ("binary", lambda x: 0.5 * (dense(1, "tanh")(x) + 1)),
    "by exp": ("binary", lambda x: 1 / (1 + keras.ops.exp(-dense(1, None)(x)))),
    "softmax by exp": (
        "multi_class",
        lambda x: (lambda e: e / keras.ops.sum(e, axis=1, keepdims=True))(
            dense(3, "exponential")(x)
        ),
    ),
    "softplus": ("binary", lambda x: 1 - keras.ops.exp(-dense(1, "softplus")(x))),
}
CROSSENTROPIES = {
    "binary": keras.losses.BinaryCrossentropy,
    "multi_label": keras.losses.BinaryCrossentropy,
    "multi_class": keras.losses.SparseCategoricalCrossentropy,
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_a_loss_says_whether_outputs_are_probabilities_as_in_keras(name: str) -> None:
    kind, end = PROBABILITIES[name]
    inputs = keras.Input([4])
    model = keras.Model(inputs, end(inputs))
    rng = np.random.default_rng()
    x = rng.normal(size=[20, 4]).astype(np.float32)
    labels = rng.integers(0, 2, [20, 3] if kind == "multi_label" else [20, 1])
    for loss in (CROSSENTROPIES[kind](), CROSSENTROPIES[kind](from_logits=True)):
        task = settled(kind, 3, loss=loss)
        model.compile(loss=loss)
        (own, given, outputs), theirs = by_both(model, task, x, labels)
        np.testing.assert_allclose(own, theirs, rtol=1e-5)
        if not loss.from_logits:
            np.testing.assert_array_equal(given, outputs)
    with pytest.raises(InputError, match="no loss that says whether that gives prob"):
        by_both(model, settled(kind, 3), x, labels)


def by_both(model: keras.Model, task: Any, x: Any, labels: Any) -> Any:
    @tf.function(autograph=False)
    def losses() -> Any:
        outputs = model(x, training=True)
        judged = task.compute_loss(labels, outputs)
        theirs = model.compute_loss(y=labels.astype(np.float32), y_pred=outputs)
        return (tf.reduce_mean(judged.of_rows), judged.probabilities, outputs), theirs

    return losses()


def test_logits_that_keras_does_not_see_behind_a_cast_are_told_of() -> None:
    inputs = keras.Input([4])
    logits = dense(1, None)(inputs)
    shares = keras.ops.cast(keras.ops.cast(keras.ops.sigmoid(logits), "float64"), "float32")
    x, labels = np.ones([2, 4], np.float32), np.array([[0], [1]])
    task = settled("binary", loss=keras.losses.BinaryCrossentropy(from_logits=True))
    losses = []
    for end in (shares, logits):
        model = keras.Model(inputs, end)
        model.compile(loss=task.loss)
        warned = pytest.warns(UserWarning, match="logits behind its sigmoid, where Keras does not")
        with warned if end is shares else contextlib.nullcontext():
            losses.append(by_both(model, task, x, labels))
    np.testing.assert_allclose(losses[0][0][0], losses[1][0][0], rtol=1e-5)
    np.testing.assert_allclose(losses[1][0][0], losses[1][1], rtol=1e-5)
    assert abs(losses[0][1] - losses[1][1]) > 1e-3, "Keras does not see them"


LOGITS: dict[str, Callable[[Any], Any]] = {
    "dense": dense(1, None),
    "batch normalization": lambda x: keras.layers.BatchNormalization()(dense(1)(x)),
    "sum": lambda x: keras.layers.Add()([dense(1, None)(x), dense(1)(x)]),
    "average": lambda x: keras.layers.Average()([dense(1, None)(x), dense(1, None)(x)]),
    "concatenate": lambda x: keras.layers.Concatenate()([dense(1, None)(x)] * 2)[:, :1],
    "mixture": lambda x: dense(1)(x) * dense(1, None)(x),
    "dropout": lambda x: keras.layers.Dropout(0.5)(dense(1, None)(x)),
    "temperature": lambda x: dense(1, None)(x) / 3.0,
}


@pytest.mark.parametrize("name", LOGITS)
def test_outputs_that_are_linear_in_a_weight_are_logits(name: str) -> None:
    inputs = keras.Input([4])
    model = keras.Model(inputs, LOGITS[name](inputs))
    x, labels = np.ones([2, 4], np.float32), np.array([[0], [1]])
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    (own, given, outputs), theirs = by_both(model, settled("binary"), x, labels)
    np.testing.assert_allclose(own, theirs, rtol=1e-5)
    np.testing.assert_allclose(given, tf.sigmoid(outputs), rtol=1e-6)
    for loss in ("binary_crossentropy", "poisson"):
        with pytest.warns(UserWarning, match=f"{loss}' takes probabilities, .* a sigmoid of them"):
            (_, given, outputs), _ = by_both(model, settled("binary", loss=loss), x, labels)
        np.testing.assert_allclose(given, tf.sigmoid(outputs), rtol=1e-6)


@pytest.mark.parametrize("end", [dense(1, None), dense(1), PROBABILITIES["clip"][1]])
def test_metrics_of_logits_get_outputs_as_they_are(end: Callable[[Any], Any]) -> None:
    inputs = keras.Input([4])
    model = keras.Model(inputs, end(inputs))
    x, labels = np.ones([2, 4], np.float32), np.array([[0], [1]])
    kinds = keras.metrics
    of_logits: list[Any] = [
        kinds.AUC(name="own", from_logits=True),
        kinds.BinaryCrossentropy(from_logits=True),
        kinds.BinaryAccuracy(name="above_0", threshold=0.0),
        kinds.Precision(thresholds=0),
        lambda y, z: keras.ops.mean(y * z, axis=-1),
    ]
    of_probabilities = [kinds.AUC(), kinds.BinaryAccuracy(), kinds.Recall(), "mse"]
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    task = settled("binary", loss=loss, metrics=["accuracy", *of_logits, *of_probabilities])

    @tf.function(autograph=False)
    def judged() -> Any:
        outputs = model(x)
        found = task.compute_loss(labels, outputs)
        return outputs, found.probabilities, [numbers for _, numbers in found.compared]

    outputs, probabilities, taken = judged()
    for place, numbers in enumerate(taken):
        expected = outputs if place < len(of_logits) else probabilities
        np.testing.assert_array_equal(numbers, expected)
    assert "accuracy counts logits above 0, unlike Keras's" in task.why


def test_the_softmax_cross_entropy_wants_labels_that_sum_to_1() -> None:
    labels = np.array([[0.0, 1.0, 0.0], [0.5, 0.25, 0.25], [1.0, 1.0, 0.0]], np.float32)
    logits = tf.Variable(np.random.default_rng().normal(size=[3, 3]).astype(np.float32))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)

    def likelihood(y: Any, z: Any) -> Any:
        return -keras.ops.sum(y * keras.ops.log_softmax(z), axis=-1)

    gradients = []
    for function in (loss.call, likelihood):
        with tf.GradientTape() as tape:
            value = function(labels, tf.convert_to_tensor(logits))
        gradients.append(tape.gradient(value, logits).numpy())
    wrong = np.abs(gradients[0] - gradients[1]).max(axis=1)
    assert (wrong[:2] < 1e-6).all()
    assert wrong[2] > 0.01, "TensorFlow is right now: drop the check"
    for asked in (loss, "categorical_crossentropy"):
        task = settled("multi_label", 3, loss=asked)
        task.check_gradient(rows(labels[:2]))
        task.check_gradient(rows(ragged([0], [2, 2], num_tokens=3)))
        for bad in (rows(labels), rows(ragged([0], [2], [0, 1], num_tokens=3))):
            with pytest.raises(InputError, match=r"row 2 of rows .* sum 2.*Multinomial"):
                task.check_gradient(bad)
    settled("multi_label", 3, loss=likelihood).check_gradient(rows(labels))
