"""Every optimizer that is offered: built, compiled, and doing what Keras's own does."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.config import OptimizerConfig
from harness.data.ragged import RaggedSets
from harness.engine.losses import row_losses
from harness.engine.optimizer import build_optimizer
from harness.errors import InputError
from tests.harness.engine.rig import build_rig
from tests.harness.random_sets import random_sets

OFFERED = [
    *("adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "ftrl", "lamb", "lion"),
    *("muon", "nadam", "rmsprop", "schedulefreeadamw", "sgd"),
]


def test_offers_all_of_keras_but_the_wrappers() -> None:
    names = [name for name in vars(keras.optimizers) if name[0].isupper()]
    others = {"optimizer", "lossscaleoptimizer", "multioptimizer", "optimizermap"}
    assert sorted({name.lower() for name in names} - others) == OFFERED


@pytest.mark.parametrize("name", ["adamm", "optimizer", "LossScaleOptimizer", "MultiOptimizer", ""])
def test_refuses_others_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"--optimizer is '{name}'.*choose one of adadelta, .*sgd"):
        build_optimizer(OptimizerConfig(optimizer=name))


@pytest.mark.parametrize("name", ["Adam", "ADAM", "adam"])
def test_case_does_not_matter(name: str) -> None:
    assert type(build_optimizer(OptimizerConfig(optimizer=name))) is keras.optimizers.Adam


def test_settings_reach_the_optimizer_and_defaults_are_keras() -> None:
    given = build_optimizer(OptimizerConfig(optimizer="sgd", learning_rate=0.25, clip_norm=2.0))
    assert float(given.learning_rate) == 0.25
    assert given.global_clipnorm == 2.0
    default = build_optimizer(OptimizerConfig(optimizer="adamw"))
    own = keras.optimizers.AdamW(name=default.name)
    assert default.get_config() == own.get_config()


@pytest.fixture(scope="module")
def sets() -> RaggedSets:
    return random_sets(np.random.default_rng(), rows=8, num_tokens=20)


@pytest.mark.parametrize("name", OFFERED)
def test_a_compiled_step_is_keras_own_step(name: str, sets: RaggedSets) -> None:
    rig = build_rig(sets, optimizer=name, hidden_units=(3,), steps_per_dispatch=1)
    ((_, batches),) = rig.dispatches()
    expected = keras_step(name, rig.network.logits, batches[0])
    rig.step(batches, 1)
    after = rig.network.logits.get_weights()
    for got, want in zip(after, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-6)


def keras_step(name: str, model: keras.Model, batches: Any) -> list[np.ndarray]:
    """The weights after one step of Keras's optimizer, eager, on copies of the variables."""
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        inputs = {"values": batches.values[0], "row_splits": batches.row_splits[0]}
        losses = row_losses(batches.labels[0], model(inputs, training=True))
        loss = tf.reduce_mean(losses)
    copies = [keras.Variable(v.numpy()) for v in variables]
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
    build_optimizer(OptimizerConfig(optimizer=name)).apply(gradients, copies)
    return [copy.numpy() for copy in copies]
