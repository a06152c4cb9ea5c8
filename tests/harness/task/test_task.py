"""Tasks: chosen from the labels, judged as by NumPy and Keras, refused in one message."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.base.errors import InputError
from harness.data.containers import as_examples
from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.task.task import ResolvedTask, Task

pytestmark = pytest.mark.usefixtures("logical_devices")


def rows(labels: Any, **parts: Any) -> Examples:
    count = labels.num_rows if isinstance(labels, RaggedSets) else len(labels)
    return Examples(inputs={"": np.zeros([count, 1])}, labels=labels, name="rows", **parts)


def ragged(*sets: list[int], num_tokens: int = 4) -> RaggedSets:
    return RaggedSets.from_lists(sets, num_tokens=num_tokens, name="labels")


def numbered(labels: list[float]) -> RaggedSets:
    splits = np.arange(len(labels) + 1)
    return RaggedSets(values=splits[1:], row_splits=splits, labels=np.array(labels), num_tokens=9)


def settled(kind: str, num_classes: int = 2, **task: Any) -> ResolvedTask:
    labels: dict[str, Any] = {
        "regression": np.linspace(-3, 5, 4 * num_classes).reshape(4, -1),
        "binary": np.arange(2),
        "multi_class": np.arange(num_classes),
        "multi_label": np.eye(num_classes, dtype=np.int32),
    }
    return Task(kind, **task).settled(rows(labels[kind]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("examples", "kind", "num_classes", "num_outputs", "why"),
    [
        (rows(np.array([0, 1, 1])), "binary", 2, 1, "2 classes"),
        (rows(np.array([0.0, 0.25])), "binary", 2, 1, "between 0 and 1"),
        (rows(np.array([0.0, 1.0])), "binary", 2, 1, "2 classes"),
        (rows(np.array([0, 4, 1])), "multi_class", 5, 5, "5 classes"),
        (rows(np.array([0, 1]), num_classes=3), "multi_class", 3, 3, "3 classes"),
        (rows(np.array([[0, 1, 0], [1, 1, 0]])), "multi_label", 3, 3, "[rows, 3]"),
        (rows(np.array([[0, 0.2], [1, 0.8]])), "multi_label", 2, 2, "[rows, 2]"),
        (rows(ragged([1, 3], [])), "multi_label", 4, 4, "sets of class numbers"),
        (rows(np.array([0.5, 3.2])), "regression", 1, 1, "numbers from 0.5 to 3.2"),
        (rows(np.array([[2.0, 0.0], [1.0, 3.0]])), "regression", 2, 2, "numbers from 0 to 3"),
        (Examples.of(numbered([0.5, 3.0, -1.5])), "regression", 1, 1, "numbers from -1.5 to 3"),
    ],
)
def test_auto_looks_at_the_labels(
    examples: Examples, kind: str, num_classes: int, num_outputs: int, why: str
) -> None:
    task = Task().settled(examples)
    assert (task.kind, task.num_classes, task.num_outputs) == (kind, num_classes, num_outputs)
    assert why in task.why
    heads = {"multi_class": "softmax", "regression": "linear"}
    assert task.head == heads.get(kind, "sigmoid")
    assert task.metric_names == (("mae",) if kind == "regression" else ("accuracy",))
    assert task.with_accuracy == (not task.stateful) == (kind != "regression")
    assert Task(task.kind).settled(examples).why.startswith("asked for")


def test_any_of_several_classes_as_a_matrix_or_as_sets() -> None:
    rng = np.random.default_rng()
    logits = rng.normal(scale=3, size=[3, 4]).astype(np.float32)
    sets = ragged([3, 0], [], [2, 2])
    matrix = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]])
    task = settled("multi_label", 4)
    z = logits.astype(np.float64)
    truth = (np.logaddexp(0, z) - matrix * z).mean(axis=1)
    padded = np.append(sets.values, 3).astype(np.int32)
    ids = {"values": tf.constant(padded), "row_splits": tf.constant(sets.row_splits)}
    for labels in (matrix, ids):
        judged = task.compute_loss(labels, logits)
        np.testing.assert_allclose(judged.of_rows, truth, rtol=1e-5)
        np.testing.assert_allclose(judged.hits[0], ((z > 0) == matrix).mean(axis=1), rtol=1e-6)


def test_sure_and_wrong_is_costly_but_finite() -> None:
    logits = np.array([[200.0], [-200.0], [200.0], [-200.0]], np.float32)
    labels = np.array([1, 0, 0, 1])
    task = settled("binary")
    np.testing.assert_allclose(
        task.compute_loss(labels, logits).of_rows, [0, 0, 200, 200], atol=1e-6
    )
    # Also of probabilities, where Keras notes the logits that they were made of.
    probabilities = keras.activations.sigmoid(tf.constant(logits))
    np.testing.assert_allclose(
        task.compute_loss(labels, probabilities).of_rows, [0, 0, 200, 200], atol=1e-6
    )


def test_an_even_chance_is_class_0_as_in_keras() -> None:
    logits = np.zeros([2, 1], np.float32)
    hits = settled("binary").compute_loss(np.array([0, 1]), logits).hits[0]
    np.testing.assert_array_equal(hits, [1, 0])


@pytest.mark.parametrize("kind", ["binary", "multi_class"])
def test_class_weights_multiply_the_losses_of_their_rows(kind: str) -> None:
    rng = np.random.default_rng()
    labels = rng.integers(0, 2, 20)
    plain, weighted = (settled(kind, 3, class_weight=w) for w in (None, {1: 2.5}))
    logits = rng.normal(size=[20, plain.num_outputs]).astype(np.float32)
    expected = plain.compute_loss(labels, logits).of_rows * np.where(labels == 1, 2.5, 1.0)
    judged = weighted.compute_loss(labels, logits)
    np.testing.assert_allclose(judged.of_rows, expected, rtol=1e-6)
    np.testing.assert_array_equal(judged.hits, plain.compute_loss(labels, logits).hits)


def test_class_weights_by_name() -> None:
    rows = as_examples([[0], [1], [0]], ["no", "yes", "perhaps"])
    task = Task(class_weight={"yes": 3.0, 1: 2.0})
    np.testing.assert_array_equal(task.settled(rows).class_weight, [1, 2, 3])  # type: ignore[arg-type]
    assert task.config()["class_weight"] == "[(1, 2.0), ('yes', 3.0)]"
    with pytest.raises(InputError, match=r"classes below 3, or by their names"):
        Task(class_weight={"maybe": 3.0}).settled(rows)
    with pytest.raises(InputError, match="for each at most once"):
        Task(class_weight={"no": 3.0, 0: 2.0}).settled(rows)


@pytest.mark.parametrize(
    ("class_weight", "weights"),
    [({0: 2.0, 1: 3.0}, [2, 3, 1]), ({1: 2.0, 3: 3.0}, [2, 1, 3])],
)
def test_numbers_of_classes_are_names_only_if_one_is_no_number_of_a_class(
    class_weight: dict[int, float], weights: list[float]
) -> None:
    examples = rows(np.arange(3), class_names=(1, 2, 3))
    task = Task(class_weight=class_weight).settled(examples)
    np.testing.assert_array_equal(task.class_weight, weights)  # type: ignore[arg-type]


def test_thresholds_are_from_0_to_1() -> None:
    limits = (0, 0.5, 1.0)
    assert settled("multi_label", 3, thresholds=limits).thresholds == limits
    assert settled("multi_class", 3, thresholds=limits).thresholds is None


def test_labels_are_smoothed_in_training_as_keras_does() -> None:
    rng = np.random.default_rng()
    labels = rng.integers(0, 4, 20)
    logits = rng.normal(scale=3, size=[20, 4]).astype(np.float32)
    plain, smooth = settled("multi_class", 4), settled("multi_class", 4, label_smoothing=0.1)
    z = logits.astype(np.float64)
    shares = 0.9 * np.eye(4)[labels] + 0.1 / 4
    truth = (shares * (np.logaddexp.reduce(z, axis=1, keepdims=True) - z)).sum(axis=1)
    np.testing.assert_allclose(smooth.compute_loss(labels, logits).of_rows, truth, rtol=1e-5)
    evaluated, expected = (
        smooth.compute_loss(labels, logits, training=False),
        plain.compute_loss(labels, logits),
    )
    np.testing.assert_array_equal(evaluated.of_rows, expected.of_rows)
    np.testing.assert_array_equal(smooth.compute_loss(labels, logits).hits, expected.hits)


@pytest.mark.parametrize("kind", ["binary", "multi_class"])
def test_balanced_class_weights_are_scikit_learns(kind: Any) -> None:
    # Class 2 has no rows, as 0.5 and 0.6 of two classes are rounded to the nearest, 0.5 to 0.
    labels = np.array([0, 0, 0, 0.5, 0.6, 1]) if kind == "binary" else np.array([0, 0, 0, 0, 1, 1])
    examples = Examples(inputs={"a": np.zeros([6, 1])}, labels=labels, num_classes=3)
    if kind == "binary":
        examples = dataclasses.replace(examples, num_classes=2)
    task = Task(kind, class_weight="balanced").settled(examples)
    assert task.class_weight is not None
    np.testing.assert_allclose(task.class_weight[:2], [6 / (2 * 4), 6 / (2 * 2)])
    assert Task(class_weight="balanced").config()["class_weight"] == "balanced"


class Counting(keras.losses.Loss):
    """A loss that counts its calls."""

    def __init__(self) -> None:
        super().__init__(name="counting")
        self.calls = keras.Variable(0.0)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred * self.calls.assign_add(1.0)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Task("both"), "task is 'both'; choose auto or one of binary"),
        (
            lambda: settled("binary", loss=keras.losses.Hinge(reduction="sum")),
            "reduction 'sum'.*give reduction='sum_over_batch_size'",
        ),
        (
            lambda: settled("multi_label", 3, loss=lambda y, p: keras.ops.mean(p, axis=0)),
            "loss '<lambda>' cannot be computed for .*3 classes.*: it gives 3 numbers for 4 rows",
        ),
        (
            lambda: settled("binary", loss="dice").check_devices(2),
            "'dice' is one number for a batch, which 2 devices divide; set replicas=1",
        ),
        (
            lambda: settled("binary", loss=Counting()),
            "loss 'counting' cannot be computed .*: it assigns a variable",
        ),
        (lambda: settled("regression", metrics=["accuracy"]), "a regression has no accuracy"),
        (lambda: settled("binary", metrics="auc"), "metrics is 'auc'; give a list of metrics"),
        (
            lambda: settled("binary", metrics=["auc", keras.metrics.AUC(name="auc")]),
            "a metric is called 'auc', a name that",
        ),
        (
            lambda: settled("multi_label", 3, metrics=[keras.metrics.F1Score()]),
            r"metric 'f1_score' is not one number but \(3,\); average it",
        ),
        (
            lambda: settled(
                "multi_label", 3, metrics=[keras.metrics.AUC(multi_label=True, num_labels=5)]
            ),
            r"metric 'auc.*' cannot be computed for the task multi_label with 3 classes",
        ),
        (
            lambda: settled("binary", class_weight={2: 2.0}),
            r"class_weight is \{2: 2.0\}; give a finite weight for classes below 2",
        ),
        (
            lambda: settled("binary", class_weight=np.ones(2)),
            r"class_weight is array\(\[1., 1.\]\); give 'balanced', or a weight",
        ),
        (
            lambda: settled("multi_label", 3, thresholds=[0.5, 0.5, 2.0]),
            r"thresholds are \[0.5, 0.5, 2.0\] for 3 classes; give a number from 0 to 1 for each",
        ),
        (
            lambda: settled("multi_label", 3, thresholds=0.5),
            "thresholds are 0.5 for 3 classes; give",
        ),
        (
            lambda: settled("multi_label", 2, thresholds=[[0.5], [0.5, 0.3]]),
            r"thresholds are \[\[0.5\], \[0.5, 0.3\]\] for 2 classes; give",
        ),
        (lambda: settled("binary", class_weight={1: "2"}), "give a finite weight"),
        (
            lambda: settled("binary", label_smoothing=0.1),
            r"label_smoothing is 0.1, which .* but the task is binary \(",
        ),
        (lambda: Task(label_smoothing="0.1"), "label_smoothing is '0.1'; give"),  # type: ignore[arg-type]
        (
            lambda: settled("multi_class", 3, label_smoothing=0.1, loss="kld"),
            "label_smoothing is 0.1, which .* but the loss is 'kld'",
        ),
    ],
)
def test_what_keras_or_a_task_cannot_do_is_refused(act: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        act()


@pytest.mark.parametrize(
    ("task", "labels", "shown"),
    [
        (settled, np.array([0, 1, 2]), r"int64 \[3\] from 0 to 2, but the task is binary with 2"),
        (settled, ragged([1]), r"sets of 4 classes, but the task is binary"),
        (
            lambda kind: settled("multi_label", 3),
            np.array([0, 1]),
            r"int64 \[2\].*multi_label with 3 classes.*give labels \[rows, 3\] from 0 to 1",
        ),
        (
            lambda kind: settled("regression", 3),
            np.array([0.5, 1.0]),
            r"float64 \[2\].*regression with 3 targets.*give labels \[rows, 3\]",
        ),
    ],
)
def test_labels_of_another_task_are_refused(
    task: Callable[[str], ResolvedTask], labels: Any, shown: str
) -> None:
    with pytest.raises(InputError, match=f"labels of rows are {shown}.*or set task"):
        task("binary").check_labels(rows(labels))


@pytest.mark.parametrize("shape", [(None, 2), (None,), (None, 1, 1), (None, None)])
def test_outputs_of_another_shape_are_refused(shape: tuple[int | None, ...]) -> None:
    task = settled("binary")
    task.check_outputs(keras.KerasTensor((None, 1)), "the model 'net'")
    with pytest.raises(InputError, match=r"'net' gives .*wants \[rows, 1\]: end .* Dense\(1\)"):
        task.check_outputs(keras.KerasTensor(shape), "the model 'net'")


def gaussian(y: Any, outputs: Any) -> Any:
    """Of two outputs for one label, the mean and the log-variance."""
    mean, variance = outputs[:, :1], outputs[:, 1:]
    return keras.ops.mean((y - mean) ** 2 * keras.ops.exp(-variance) + variance, axis=-1)


@pytest.mark.parametrize(
    ("end", "loss", "labels", "metrics"),
    [
        ((2, "softmax"), "sparse_categorical_crossentropy", "two", ["accuracy"]),
        ((3, "softmax"), "categorical_crossentropy", "one-hot", ["accuracy", "acc"]),
        (
            (3, None),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            "one-hot",
            ["accuracy"],
        ),
        ((2, "softmax"), "categorical_focal_crossentropy", "one-hot of two", ["accuracy"]),
        ((1, "exponential"), "poisson", "counts", ["mae"]),
        ((1, None), "hinge", "two", []),
        ((3, None), keras.losses.CategoricalHinge(), "one-hot", ["accuracy"]),
        ((2, None), gaussian, "numbers", []),
    ],
)
def test_auto_takes_labels_as_keras_does(
    end: tuple[int, str | None], loss: Any, labels: str, metrics: list[str]
) -> None:
    x = keras.random.normal([40, 3], seed=1)
    numbers = np.arange(40)
    given = {
        "two": numbers % 2,
        "one-hot": np.eye(3)[numbers % 3],
        "one-hot of two": np.eye(2, dtype=int)[numbers % 2],
        "counts": numbers % 7,
        "numbers": numbers / 7,
    }[labels]
    inputs = keras.Input([3], name="x")
    model = keras.Model({"x": inputs}, keras.layers.Dense(*end)(inputs))
    model.compile(loss=loss, metrics=metrics)
    wanted = given.reshape(40, -1) if end[0] < 3 and metrics == [] else given
    theirs = model.evaluate({"x": x}, wanted, batch_size=40, verbose=0, return_dict=True)
    trainer = harness.Trainer(model, task=harness.Task(loss=loss, metrics=metrics), batch_size=40)
    rows = harness.Examples(inputs={"x": np.array(x)}, labels=given)
    assert trainer.evaluate(rows) == pytest.approx(theirs, rel=1e-5)
