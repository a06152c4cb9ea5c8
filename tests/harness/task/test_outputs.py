"""Models of several outputs, each with a task, against `keras.Model.fit`."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.task.outputs import OutputTasks, ResolvedOutputs, numbered, settled
from harness.task.task import ResolvedTask

ROWS, BATCH_SIZE = 40, 20
L, M = keras.losses, keras.metrics
Net = Callable[[Any], Any]


def absolute(y: Any, outputs: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(y - outputs), axis=-1)


def outputs_of(x: Any) -> dict[str, Any]:
    """Makes four outputs, of which `extra` has no labels."""

    def dense(units: int, seed: int, activation: str | None = None, name: str | None = None) -> Any:
        initializer = keras.initializers.RandomNormal(stddev=0.4, seed=seed)
        return keras.layers.Dense(units, activation, kernel_initializer=initializer, name=name)

    x = dense(6, 1, "gelu")(x)
    click = dense(1, 2, "sigmoid", name="click")(x)
    return {
        "topic": dense(4, 3)(x),
        "click": click,
        "bought": click * dense(1, 4, "sigmoid", name="bought")(x),
        "stars": dense(2, 5, name="stars")(x),
        "extra": dense(2, 6)(x),
    }


def as_list(x: Any) -> list[Any]:
    found = outputs_of(x)
    return [found["stars"], found["click"]]


def rows(seed: int, *names: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    labels = {
        "topic": rng.integers(0, 4, ROWS),
        "click": rng.integers(0, 2, [ROWS, 1]).astype(np.float32),
        "bought": rng.integers(0, 2, [ROWS, 1]).astype(np.float32),
        "stars": rng.normal(size=(ROWS, 2)).astype(np.float32),
    }
    return rng.normal(size=(ROWS, 3)).astype(np.float32), {n: labels[n] for n in names or labels}


def examples(x: np.ndarray, labels: Any, **more: Any) -> harness.Examples:
    return harness.Examples(inputs={"x": x}, labels=labels, **more)


def of_x(net: Net) -> Net:
    return lambda inputs: net(inputs["x"])


def trained(
    net: Net, task: Any, *names: str, weights: Any = None, **settings: Any
) -> tuple[harness.Trainer, dict[str, list[float]]]:
    own = {"batch_size": BATCH_SIZE, "optimizer": keras.optimizers.SGD(0.1), "seed": 0}
    trainer = harness.Trainer(of_x(net), task=task, **{**own, **settings})
    train, test = (examples(*rows(seed, *names), weights=weights) for seed in (0, 1))
    how: dict[str, Any] = {"validation": test, "epochs": 2, "shuffle": False, "verbose": False}
    return trainer, trainer.fit(train, **how).history


def in_keras(net: Net, *names: str, weights: Any = None, **compiled: Any) -> tuple[Any, Any]:
    given = keras.Input((3,))
    model = keras.Model(given, net(given))
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False, **compiled)
    x, labels = rows(0, *names)
    test = (*rows(1, *names), *(() if weights is None else (weights,)))
    how: dict[str, Any] = {"epochs": 2, "batch_size": BATCH_SIZE, "shuffle": False, "verbose": 0}
    found = model.fit(x, labels, sample_weight=weights, validation_data=test, **how)
    return model, found.history


def logits() -> keras.losses.Loss:
    return L.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(("replicas", "weighted"), [(1, True), (2, False)])
def test_every_output_has_the_loss_and_the_metrics_of_its_task(
    replicas: int, weighted: bool
) -> None:
    def without_extra(x: Any) -> dict[str, Any]:  # Keras wants a loss for each
        return {name: each for name, each in outputs_of(x).items() if name != "extra"}

    weights = np.linspace(0, 2, ROWS).astype(np.float32) if weighted else None
    auc = M.AUC(name="auc")
    task = {
        "topic": harness.Task(loss=logits(), loss_weight=2),
        "click": harness.Task(metrics=["accuracy", auc, absolute]),
        "bought": harness.Task("binary", loss="binary_crossentropy", loss_weight=0.5),
        "stars": "regression",
    }
    trainer, history = trained(outputs_of, task, weights=weights, replicas=replicas)
    names = "bought", "click", "stars", "topic"
    losses = ["binary_crossentropy", "binary_crossentropy", "mse", logits()]
    metrics = [["accuracy"], ["accuracy", M.AUC(name="auc"), absolute], ["mae"], ["accuracy"]]
    model, expected = in_keras(
        without_extra,
        weights=weights,
        loss=dict(zip(names, losses, strict=True)),
        loss_weights=dict(zip(names, [0.5, 1.0, 1.0, 2.0], strict=True)),
        metrics=dict(zip(names, metrics, strict=True)),
    )
    assert history.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=2e-5, err_msg=name)
    x, labels = rows(1)
    found, theirs = trainer.predict(examples(x, None)), model.predict(x, verbose=0)
    assert found.keys() == {*theirs, "extra"}
    for name, values in theirs.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
    copied = copy.deepcopy(trainer)  # `absolute` and all
    assert copied.evaluate(examples(x, labels)) == pytest.approx(
        trainer.evaluate(({"x": x}, labels))
    )


def test_outputs_in_a_list_have_their_layers_names() -> None:
    names = "stars", "click"
    trainer, history = trained(as_list, {"stars": "regression", "click": "binary"}, *names)
    model, expected = in_keras(
        as_list,
        *names,
        loss={"stars": "mse", "click": "binary_crossentropy"},
        metrics={"stars": ["mae"], "click": ["accuracy"]},
    )
    assert history.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=2e-5, err_msg=name)
    x = rows(1)[0]
    for found, theirs in zip(trainer.predict({"x": x}), model.predict(x, verbose=0), strict=True):
        np.testing.assert_allclose(found, theirs, atol=1e-5)


def test_a_run_of_several_outputs_resumes_and_is_exported(tmp_path: Path) -> None:
    task = {"topic": harness.Task(loss=logits()), "stars": harness.Task(loss="mse")}
    train = examples(*rows(0, *task))
    how: dict[str, Any] = {"run_dir": tmp_path / "run", "verbose": False}

    def made() -> harness.Trainer:
        return harness.Trainer(of_x(outputs_of), task=task, batch_size=BATCH_SIZE)

    made().fit(train, epochs=1, **how)
    resumed = made()
    again = resumed.fit(train, epochs=2, resume=True, **how).history
    whole = made().fit(train, epochs=2, verbose=False).history
    assert {name: values[1:] for name, values in whole.items()} == again
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["task"]["task"], config["task"]["stars.loss"]) == ("outputs", "mse")
    resumed.export(tmp_path / "exported")
    serve = tf.saved_model.load(tmp_path / "exported").signatures["serve"]
    found = serve(tf.constant(train.inputs["x"]))
    for name, values in resumed.predict(train).items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
    with pytest.raises(harness.InputError, match="several outputs, and ONNX files"):
        resumed.export(tmp_path / "m.onnx", format="onnx")
    with pytest.raises(harness.InputError, match="of several outputs, no classes to measure"):
        resumed.measure(train)


BOTH = {"click": "binary", "stars": "regression"}


@pytest.mark.parametrize(
    ("net", "task", "names", "message"),
    [
        (
            outputs_of,
            BOTH,
            ["click"],
            "the outputs 'stars' have only a task or only labels in examples",
        ),
        (
            outputs_of,
            {"clicks": "binary"},
            ["click"],
            "the tasks name the outputs 'clicks', and the model has 'bought', 'click'",
        ),
        (
            lambda x: outputs_of(x)["click"],
            BOTH,
            [*BOTH],
            "the model has a single output; give its task",
        ),
        (
            lambda x: outputs_of(x)["click"],
            "auto",
            ["click"],
            "the model has a single output; give its task",
        ),
        (outputs_of, {"topic": "binary"}, ["topic"], "the labels of .* 'topic' show 4 classes"),
        (
            lambda x: {"click": x[:, 0]},
            "auto",
            ["click"],
            "output 'click' is a KerasTensor \\[None\\]",
        ),
        (lambda x: [x, x][:1] * 2, "auto", ["click"], "whose layers name"),
        (lambda x: {"click": [x]}, "auto", ["click"], "the model's output 'click' is a list"),
    ],
)
def test_what_does_not_fit_gets_a_message(
    net: Net, task: Any, names: list[str], message: str
) -> None:
    with pytest.raises(harness.InputError, match=message):
        trained(net, task, *names)


def test_labels_of_outputs_are_numbers_of_as_many_rows() -> None:
    x, labels = rows(0)
    with pytest.raises(harness.InputError, match="the labels of topic 39"):
        examples(x, {"topic": labels["topic"][1:]})
    with pytest.raises(harness.InputError, match="row 0 has the label 20000000 of topic"):
        examples(x, {"topic": np.full(ROWS, 20_000_000)})
    with pytest.raises(harness.InputError, match="labels of topic are RaggedSets, which cannot"):
        examples(x, {"topic": harness.RaggedSets.from_lists([[0, 1]] * ROWS)})
    with pytest.raises(harness.InputError, match="labels by output have the names"):
        examples(x, {})
    with pytest.raises(harness.InputError, match="labels of kind that are names"):
        harness.as_examples({"x": x}, {"kind": ["a", "b"] * (ROWS // 2)})


def test_of_rows_without_labels_only_the_outputs_are_known() -> None:
    rows, three, one = harness.Examples(inputs={"x": np.ones([2, 1])}), [None, 3], [None, 1]
    outputs = {"b": keras.KerasTensor(one), "a": keras.KerasTensor(three)}
    several = settled(harness.Task(), outputs, ["a", "b"], rows)
    assert isinstance(several, ResolvedOutputs)
    assert (several.is_known, several.widths) == (False, {"a": 3, "b": 1})
    assert isinstance(settled(harness.Task(), outputs["a"], ["a"], rows), ResolvedTask)
    assert numbered(OutputTasks({}), rows) is rows


def test_one_hot_labels_are_decided_by_the_rows_to_train_on() -> None:
    """As soft and one-hot labels are one task, of which functions get the labels as given."""
    x, hot = rows(0)[0], np.eye(3, dtype=np.float32)[np.arange(ROWS) % 3]

    def mean(y: Any, outputs: Any) -> Any:
        return keras.ops.mean(y, axis=-1)

    def net(inputs: Any) -> Any:
        return keras.layers.Dense(3, "softmax")(inputs["x"])

    def made(**task: Any) -> harness.Trainer:
        task = {"loss": "categorical_crossentropy", **task}
        return harness.Trainer(net, task=harness.Task(**task), batch_size=BATCH_SIZE)

    trainer = made(metrics=["accuracy"])
    trainer.fit(examples(x, 0.9 * hot + 0.1 / 3), validation=examples(x, hot), verbose=False)
    assert made(metrics=[mean]).evaluate(examples(x, hot))["mean"] == pytest.approx(1 / 3)
    shared = harness.Trainer(  # one task for each output
        lambda i: {n: keras.layers.Dense(3, "softmax")(i["x"]) for n in "ab"},
        task=harness.Task(loss="categorical_crossentropy"),
        batch_size=BATCH_SIZE,
    )
    accuracy = shared.evaluate(examples(x, {"a": hot, "b": hot}))["a_accuracy"]
    right = shared.predict({"x": x})["a"].argmax(axis=1) == hot.argmax(axis=1)
    assert accuracy == pytest.approx(right.mean())
    with pytest.raises(harness.InputError, match="loss_weight is 5"):
        made(loss_weight=5.0).evaluate(examples(x, hot))
    with pytest.raises(harness.InputError, match="has labels by name, a, and the model a single"):
        trainer.evaluate(examples(x, {"a": hot}))
