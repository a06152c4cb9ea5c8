"""Callbacks are called as by `keras.Model.fit`. The cases of benchmarks.differential compare what
they see and change."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.feed.plan import epoch_order
from tests.harness.random_sets import random_sets

TOKENS = 40


def rows(count: int = 200) -> harness.RaggedSets:
    return random_sets(np.random.default_rng(), rows=count, num_tokens=TOKENS, unique=True)


def small(inputs: Any) -> Any:
    x = harness.MultiHotDense(8, TOKENS, activation="gelu")(inputs)
    return keras.layers.Dense(1)(x)


def twins() -> tuple[keras.Model, keras.Model]:
    """Makes two models with the same weights."""
    models = []
    for _ in range(2):
        inputs = {
            name: keras.Input(batch_shape=(None,), dtype="int32", name=name)
            for name in ("values", "row_splits")
        }
        models.append(keras.Model(inputs, keras.layers.Activation("sigmoid")(small(inputs))))
    models[1].set_weights(models[0].get_weights())
    return models[0], models[1]


def batches(sets: harness.RaggedSets, orders: Iterable[np.ndarray]) -> tf.data.Dataset:
    """Returns batches of 40 rows, in one order after another."""

    def generate() -> Iterator[Any]:
        for order in orders:
            for start in range(0, len(order), 40):
                part = sets.take(order[start : start + 40])
                inputs = {"values": part.values, "row_splits": part.row_splits.astype(np.int32)}
                yield inputs, part.labels.astype(np.float32)[:, None]

    spec = {name: tf.TensorSpec([None], tf.int32) for name in ("values", "row_splits")}
    signature = (spec, tf.TensorSpec([None, 1], tf.float32))
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


def stored(sets: harness.RaggedSets) -> tf.data.Dataset:
    steps = tf.data.experimental.assert_cardinality(-(-sets.num_rows // 40))
    return batches(sets, [np.arange(sets.num_rows)]).apply(steps)


class Twins:
    """A trainer, and a compiled model with the same weights that gets the same rows."""

    def __init__(self, optimizer: keras.optimizers.Optimizer, **settings: Any) -> None:
        def metrics() -> list[keras.metrics.Metric]:
            return [keras.metrics.AUC(name="auc"), keras.metrics.MeanAbsoluteError(name="mae")]

        given, self.model = twins()
        copy = type(optimizer).from_config(optimizer.get_config())
        accuracy = keras.metrics.BinaryAccuracy(name="accuracy")
        self.model.compile(
            copy, "binary_crossentropy", metrics=[accuracy, *metrics()], run_eagerly=True
        )
        task = harness.Task("binary", metrics=["accuracy", *metrics()])
        how = {"batch_size": 40, "implementation": "gather", "seed": 3, **settings}
        self.trainer = harness.Trainer(given, task=task, optimizer=optimizer, **how)

    def fit(
        self,
        train: harness.RaggedSets,
        ours: list[Any],
        theirs: list[Any],
        *,
        validation: harness.RaggedSets | None = None,
        first: int = 0,
        shuffle: bool = True,
        **arguments: Any,
    ) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Returns both histories; `first` is the epoch whose order comes first."""
        own = self.trainer.fit(
            train,
            validation=validation,
            callbacks=ours,
            shuffle=shuffle,
            verbose=False,
            **arguments,
        )
        count = train.num_rows
        their = self.model.fit(
            batches(
                train,
                (
                    epoch_order(count, seed=3, epoch=epoch) if shuffle else np.arange(count)
                    for epoch in range(first, first + 9)
                ),
            ),
            steps_per_epoch=-(-count // 40),
            validation_data=None if validation is None else stored(validation),
            callbacks=theirs,
            shuffle=False,  # they come in order
            verbose=0,
            **arguments,
        )
        assert own.epoch == their.epoch
        assert list(own.history) == list(their.history)
        for name, values in their.history.items():
            np.testing.assert_allclose(own.history[name], values, rtol=2e-5, err_msg=name)
        return own.history, their.history

    def have_equal_weights(self) -> None:
        pairs = zip(self.trainer.model.get_weights(), self.model.get_weights(), strict=True)
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


class Recorder(keras.callbacks.Callback):
    """Records the arguments of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[int, ...], dict[str, Any]]] = []

    def _record(self, hook: str, arguments: tuple[Any, ...], logs: Any) -> None:
        numbers = tuple(a for a in arguments if isinstance(a, int))
        logs = next((a for a in arguments if isinstance(a, dict)), logs)
        self.calls.append((hook, numbers, dict(logs or {})))


def recording(*hooks: str) -> Recorder:
    def method(hook: str) -> Any:
        return lambda self, *arguments, logs=None: self._record(hook, arguments, logs)

    return type("Recording", (Recorder,), {hook: method(hook) for hook in hooks})()


STAGES = ("train", "test", "predict")
OUTER = [f"on_{stage}_{end}" for stage in STAGES for end in ("begin", "end")]
OUTER += ["on_epoch_begin", "on_epoch_end"]
BATCH = [f"on_{stage}_batch_{end}" for stage in STAGES for end in ("begin", "end")]


def assert_same_calls(ours: Recorder, theirs: Recorder) -> None:
    assert [(hook, at) for hook, at, _ in ours.calls] == [
        (hook, at) for hook, at, _ in theirs.calls
    ]
    assert ours.params | theirs.params | {"verbose": 0} == ours.params
    for (hook, at, own), (_, _, their) in zip(ours.calls, theirs.calls, strict=True):
        assert list(own) == list(their), (hook, at)
        for name, value in their.items():
            np.testing.assert_allclose(own[name], value, rtol=2e-5, err_msg=f"{hook} {at} {name}")


@pytest.mark.parametrize(
    ("hooks", "arguments"),
    [
        (OUTER + BATCH, {"epochs": 2, "shuffle": False}),
        (OUTER, {"epochs": 4, "initial_epoch": 1, "validation_freq": [1, 3], "first": 1}),
    ],
    ids=["all", "outer"],
)
def test_every_hook_of_a_fit_is_called_as_in_keras(
    hooks: list[str], arguments: dict[str, Any]
) -> None:
    both = Twins(keras.optimizers.Adam(0.02), steps_per_dispatch=2)
    ours, theirs = recording(*hooks), recording(*hooks)
    train, validation = rows(), rows(80)
    both.fit(train, [[ours]], [[theirs]], validation=validation, **arguments)
    assert_same_calls(ours, theirs)
    both.have_equal_weights()


def test_hooks_of_evaluate_and_predict() -> None:
    both = Twins(keras.optimizers.SGD(0.1))
    ours, theirs = recording(*OUTER, *BATCH), recording(*OUTER, *BATCH)
    test = rows(80)
    both.trainer.evaluate(test, callbacks=[ours])
    both.model.evaluate(stored(test), callbacks=[theirs], verbose=0)
    found = both.trainer.predict(test, callbacks=[ours])
    expected = both.model.predict(stored(test), callbacks=[theirs], verbose=0)
    # A trainer gives logits where Keras gives what the last activation makes of them.
    assert found.shape == expected.shape
    assert_same_calls(ours, theirs)
    assert both.trainer.model.metrics == []


class StopAt(keras.callbacks.Callback):
    """Stops in a batch."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == self.batch:
            self.model.stop_training = True


def test_a_batch_that_stops_ends_its_epoch_and_a_second_fit_counts_anew() -> None:
    both = Twins(keras.optimizers.Adam(0.02))
    ours, theirs = recording(*OUTER, *BATCH[:4]), recording(*OUTER, *BATCH[:4])
    train, test = rows(), rows(80)
    both.fit(train, [StopAt(2), ours], [StopAt(2), theirs], validation=test, epochs=3)
    both.fit(train, [ours], [theirs], validation=test, epochs=2, first=1)
    assert_same_calls(ours, theirs)
    both.have_equal_weights()


def test_a_schedule_of_epochs_begins_anew_in_a_second_fit() -> None:
    both = Twins(keras.optimizers.SGD(0.5))
    train = rows()
    for first in (0, 2):
        ours, theirs = (
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (1 + epoch)) for _ in range(2)
        )
        own, _ = both.fit(train, [ours], [theirs], epochs=2, first=first)
        assert own["learning_rate"] == [0.5, 0.25]
    both.have_equal_weights()
