"""A run under a tf.distribute strategy, as its users write one; two logical CPU devices stand for
two GPUs, and tests/emulated_gpu/test_strategy.py runs the same on those."""

import io
import json
import pickle
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.workers.launcher import run_job
from tests.emulated_gpu import trainings
from tests.harness.random_sets import random_sets

HOW: dict[str, Any] = {"batch_size": 8, "implementation": "gather", "precision": "float32"}


@pytest.fixture(scope="module")
def rows() -> harness.RaggedSets:
    return random_sets(np.random.default_rng(), rows=45, unique=True)


@pytest.fixture(scope="module")
def two(logical_devices: list[str]) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy([f"CPU:{place}" for place in range(len(logical_devices))])


@keras.saving.register_keras_serializable(package="tests")
class Centred(keras.layers.Layer):
    """Subtracts the mean over all replicas' rows in training, and adds a loss of Keras's."""

    seen: list[Any] = []  # noqa: RUF012  # what each replica found, to be looked at by tests

    def call(self, inputs: Any, training: bool = False) -> Any:
        self.add_loss(0.1 * keras.losses.MeanSquaredError()(tf.zeros_like(inputs), inputs))
        replica = tf.distribute.get_replica_context()
        kind = type(tf.distribute.get_strategy()).__name__
        number = int(tf.get_static_value(replica.replica_id_in_sync_group))
        self.seen.append((kind, number, replica.num_replicas_in_sync))
        if not training:
            return inputs
        own = [tf.reduce_sum(inputs, axis=0), tf.cast(tf.shape(inputs)[0], tf.float32)]
        total, count = replica.all_reduce("SUM", own)
        return inputs - total / count


def network(inputs: Any, *, layer: Any = Centred) -> Any:
    x = harness.MultiHotDense(6, num_tokens=50, activation="gelu")(inputs)
    return keras.layers.Dense(1)(layer()(x))


def losses(trainer: harness.Trainer, rows: Any, **how: Any) -> list[float]:
    found: list[float] = trainer.fit(rows, epochs=2, verbose=False, **how).history["loss"]
    return found


@pytest.fixture
def seen() -> Iterator[list[Any]]:
    Centred.seen.clear()
    yield Centred.seen
    Centred.seen.clear()


def test_a_layer_finds_its_replica_and_sums_over_all(rows: Any, two: Any, seen: list[Any]) -> None:
    alone = harness.Trainer(network, **HOW)
    expected = losses(alone, rows)
    assert isinstance(alone.strategy, tf.distribute.OneDeviceStrategy)
    # Plain variables, which Keras's own `fit` trains without a strategy.
    assert alone.model.distribute_strategy is tf.distribute.get_strategy()
    assert set(seen) == {("OneDeviceStrategy", 0, 1)}
    seen.clear()
    both = harness.Trainer(network, strategy=two, **HOW)
    np.testing.assert_allclose(losses(both, rows), expected, rtol=1e-6)
    assert both.strategy is two
    replicas = {number for _, number, _ in seen}
    assert replicas == {0, 1}
    assert {(kind, number) for kind, _, number in seen} == {("MirroredStrategy", 2)}
    np.testing.assert_allclose(both.predict(rows), alone.predict(rows), rtol=1e-4, atol=1e-6)
    # A copy chooses its own devices.
    copy = pickle.loads(pickle.dumps(both))
    np.testing.assert_allclose(losses(copy, rows), losses(both, rows), rtol=1e-5)
    assert isinstance(copy.strategy, tf.distribute.OneDeviceStrategy)
    # A scope gives the strategy, around the trainer's making or around its use.
    with two.scope():
        made = harness.Trainer(network, **HOW)
    used = harness.Trainer(network, **HOW)
    with two.scope():
        found = losses(used, rows, validation=rows)
        assert used.evaluate(rows)["loss"] > 0
    for own in (losses(made, rows), found):
        np.testing.assert_allclose(own, expected, rtol=1e-6)
    assert made.strategy is used.strategy is two


def test_the_scope_of_a_model_gives_the_strategy(rows: Any, two: Any) -> None:
    names = ("values", "row_splits")
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in names}
    with two.scope():
        model = keras.Model(inputs, plain(inputs))
    trainer = harness.Trainer(model, **HOW)
    alone = keras.Model(inputs, plain(inputs))
    alone.set_weights(model.get_weights())
    expected = losses(harness.Trainer(alone, **HOW), rows)
    np.testing.assert_allclose(losses(trainer, rows), expected, rtol=1e-6)
    first, second = model.trainable_variables[0].value.values
    np.testing.assert_array_equal(first, second)
    assert trainer.strategy is two


def plain(inputs: Any) -> Any:
    return network(inputs, layer=partial(keras.layers.Activation, "linear"))


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(keras.optimizers.AdamW, 0.01, weight_decay=0.1, clipnorm=0.5),
        partial(
            keras.optimizers.SGD, 0.1, use_ema=True, ema_overwrite_frequency=3, global_clipnorm=0.1
        ),
        partial(keras.optimizers.Adam, 0.01, gradient_accumulation_steps=2),
    ],
    ids=["decay and clipping", "averages and global norm", "accumulation"],
)
def test_an_optimizer_sums_once(optimizer: Any, rows: Any, two: Any) -> None:
    alone, both = (
        harness.Trainer(plain, optimizer=optimizer, strategy=strategy, **HOW)
        for strategy in (None, two)
    )
    np.testing.assert_allclose(losses(both, rows), losses(alone, rows), rtol=1e-6)
    np.testing.assert_allclose(both.predict(rows), alone.predict(rows), rtol=1e-4, atol=1e-6)


class Asking(keras.optimizers.SGD):
    """An optimizer of the user's own, which sums over replicas in its update."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        replica = tf.distribute.get_replica_context()
        assert tf.distribute.has_strategy()
        mean = replica.all_reduce("MEAN", gradient)  # all replicas have the sum already
        super().update_step(mean, variable, learning_rate)


def test_replicas_stay_alike_though_seeds_differ(rows: Any, two: Any) -> None:
    def dropping(inputs: Any) -> Any:
        return network(inputs, layer=partial(harness.HashDropout, 0.5))

    metrics = ["accuracy", keras.metrics.AUC(name="auc")]
    task = harness.Task("binary", metrics=metrics)
    trainer = harness.Trainer(dropping, task=task, strategy=two, **HOW)
    history = trainer.fit(rows, epochs=2, verbose=False, validation=rows).history
    assert set(history) == {f"{of}{m}" for of in ("", "val_") for m in ("loss", "accuracy", "auc")}
    for variable in trainer.model.trainable_variables:
        first, second = variable.value.values
        np.testing.assert_array_equal(first, second)
    seeds = [v for v in trainer.model.variables if "seed" in v.name]
    assert all((v.value.values[0].numpy() != v.value.values[1].numpy()).any() for v in seeds)


class Refused(keras.layers.Layer):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def call(self, inputs: Any, training: bool = False) -> Any:
        replica = tf.distribute.get_replica_context()
        if self.what == "all_gather":
            return replica.all_gather(inputs, axis=0)
        if self.what == "merge_call":
            return replica.merge_call(lambda strategy, value: value, args=(inputs,))
        if self.what == "slices":
            return replica.all_reduce("SUM", tf.IndexedSlices(inputs, tf.range(4)))
        return inputs if training else replica.all_reduce("MEAN", inputs)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("all_gather", "the model calls all_gather, which a trainer's programs lack; use"),
        ("merge_call", "the model calls merge_call, or assigns a variable of the strategy"),
        ("slices", "all_reduce is called with tf.IndexedSlices; give tensors"),
        ("evaluation", "calls all_reduce in an evaluation or a prediction, where"),
    ],
)
def test_what_a_replica_cannot_do(what: str, message: str, rows: Any, two: Any) -> None:
    trainer = harness.Trainer(partial(network, layer=partial(Refused, what)), strategy=two, **HOW)
    with pytest.raises(harness.InputError) as refused:
        losses(trainer, rows, validation=rows)
    assert str(refused.value).startswith(message) or message in str(refused.value)
    assert "\n" not in str(refused.value), "Keras's words are left out"


def test_one_message_for_what_contradicts(rows: Any, two: Any) -> None:
    with pytest.raises(harness.InputError, match=r"replicas is 2 beside a strategy.*leave one"):
        losses(harness.Trainer(network, strategy=two, **HOW, replicas=2), rows)
    other = tf.distribute.OneDeviceStrategy("CPU:0")
    trainer = harness.Trainer(network, strategy=two, **HOW)
    with other.scope(), pytest.raises(harness.InputError, match="another OneDeviceStrategy"):
        trainer.fit(rows, verbose=False)
    central = tf.distribute.experimental.CentralStorageStrategy(["CPU:0"])
    with pytest.raises(harness.InputError, match=r"CentralStorageStrategy.*; give a OneDevice"):
        harness.Trainer(network, strategy=central)


def test_an_optimizer_may_ask_for_its_replica(rows: Any, two: Any) -> None:
    """On GPUs it may sum, too; on CPU devices no sum is left out in silence."""
    optimizer = partial(Asking, 0.1)
    alone = harness.Trainer(plain, optimizer=optimizer, **HOW)
    usual = harness.Trainer(plain, optimizer=partial(keras.optimizers.SGD, 0.1), **HOW)
    np.testing.assert_allclose(losses(alone, rows), losses(usual, rows), rtol=1e-6)
    with pytest.raises(harness.InputError, match="the optimizer calls all_reduce, which"):
        losses(harness.Trainer(plain, optimizer=optimizer, strategy=two, **HOW), rows)


# Two workers train a network whose layer sums over both; then each has a model of its own.
_WORKER = """
import json, os
import keras
import harness
from harness.program.strategy import name_of
from tests.emulated_gpu import trainings
from tests.harness.trainer import test_strategy as own
rows = trainings.rows_of(weighted=False)
trainer = harness.Trainer(own.of_trainings, **own.HOW)
print(json.dumps([own.losses(trainer, rows), name_of(trainer.strategy), own.Centred.seen[-1]]))
units = 4 + int(os.environ["OMPI_COMM_WORLD_RANK"])
def other(inputs):
    products = harness.MultiHotDense(units, num_tokens=trainings.NUM_TOKENS)(inputs)
    return keras.layers.Dense(1)(products)
try:
    harness.Trainer(other, **own.HOW).fit(rows, verbose=False)
except harness.InputError as error:
    print(error)
"""


def of_trainings(inputs: Any) -> Any:
    x = harness.MultiHotDense(6, num_tokens=trainings.NUM_TOKENS, activation="gelu")(inputs)
    return keras.layers.Dense(1)(Centred()(x))


def test_workers_sum_in_a_layer_and_tell_of_unlike_models(seen: list[Any]) -> None:
    out = io.StringIO()
    code = run_job(2, [sys.executable, "-c", _WORKER], out=out, errors=io.StringIO())
    assert code == 0, out.getvalue()
    expected = losses(harness.Trainer(of_trainings, **HOW), trainings.rows_of(weighted=False))
    printed = out.getvalue().splitlines()
    for index in range(2):
        first, message = [line[4:] for line in printed if line.startswith(f"[{index}]")]
        found, name, (_, number, replicas) = json.loads(first)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert (name, number, replicas) == ("MultiWorkerMirroredStrategy", index, 2)
        assert "worker 1" in message
        assert "model or optimizer" in message
