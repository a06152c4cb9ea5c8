"""Every optimizer on offer: built, compiled, and with the same results as Keras's own."""

import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.base.errors import InputError
from harness.data.ragged import RaggedSets
from harness.program.optimizer import copy_of, kept_bytes, optimizer_factory
from tests.harness.program.rig import Rig, build_rig
from tests.harness.random_sets import random_sets

OFFERED = [
    *("adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "ftrl", "lamb", "lion"),
    *("muon", "nadam", "rmsprop", "schedulefreeadamw", "sgd"),
]


def test_offers_all_of_keras_but_the_wrappers() -> None:
    names = [name for name in vars(keras.optimizers) if name[0].isupper()]
    others = {"optimizer", "lossscaleoptimizer", "multioptimizer", "optimizermap"}
    assert sorted({name.lower() for name in names} - others) == OFFERED


def test_settings_reach_the_optimizer_and_defaults_are_keras() -> None:
    given = optimizer_factory("SGD", learning_rate=0.25, clip_norm=2.0)()
    assert float(given.learning_rate) == 0.25
    assert given.global_clipnorm == 2.0
    assert optimizer_factory("adamw", weight_decay=0.0)().weight_decay == 0.0
    assert optimizer_factory("sgd", weight_decay=0.5)().weight_decay == 0.5
    default = optimizer_factory("adamw")()
    own = keras.optimizers.AdamW(name=default.name)
    assert default.get_config() == own.get_config()


@pytest.mark.parametrize(
    ("name", "settings", "kept"),
    [
        ("SGD", {}, 0),
        ("SGD", {"momentum": 0.9, "use_ema": True}, 2),
        ("Adam", {}, 2),
        ("Adam", {"gradient_accumulation_steps": 2}, 3),
        ("Nadam", {}, 2),
        ("Adafactor", {}, 1),
    ],
)
def test_what_an_optimizer_keeps_of_a_weight(
    name: str, settings: dict[str, Any], kept: int
) -> None:
    optimizer = getattr(keras.optimizers, name)(**settings)
    assert kept_bytes(optimizer) == kept
    assert not optimizer.built


@pytest.fixture(scope="module")
def sets() -> RaggedSets:
    return random_sets(np.random.default_rng(), rows=8, num_tokens=20)


# Those with variables of unusual kinds; benchmarks.differential draws all.
@pytest.mark.parametrize("name", ["adafactor", "ftrl", "muon", "schedulefreeadamw"])
def test_a_compiled_step_is_keras_own_step(name: str, sets: RaggedSets) -> None:
    # With a ReLU a unit may be dead, whose gradients of 0 Keras's Adafactor divides by.
    settings: dict[str, Any] = {"hidden_units": (3,), "activation": "gelu", "steps_per_call": 1}
    rig = build_rig(sets, optimizer=name, **settings)
    ((dispatch, batches),) = rig.dispatches()
    expected = keras_step(name, rig, batches[8][0])
    rig.run(dispatch.calls[0], batches)
    for got, want in zip(rig.weights(), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-6)


def keras_step(name: str, rig: Rig, batches: Any) -> list[np.ndarray]:
    """Returns the weights after one step of Keras's optimizer, eager, on copies of the
    variables."""
    variables = [v.value for v in rig.model.trainable_variables]
    with tf.GradientTape() as tape:
        share = batches.reader(
            tf.constant(0, tf.int64),
            1,
            capacity=rig.plan.capacities[8].largest,
            implementation="gather",
        )(tf.constant(0))
        outputs = rig.model(share.inputs[""], training=True)
        loss = tf.reduce_mean(rig.task.judge(share.labels, outputs).losses)
    copies = [keras.Variable(v.numpy()) for v in variables]
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
    optimizer_factory(name)().apply(gradients, copies)
    return [copy.numpy() for copy in copies]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", {5: 1.0, 9: 1.0, 15: 1.0}),
        ("linear", {5: 1.0, 10: 0.5, 15: 0.0, 20: 0.0}),
        ("cosine", {5: 1.0, 10: 0.5, 15: 0.0}),
        ("exponential", {5: 1.0, 10: 0.1, 15: 0.01}),
    ],
)
def test_the_learning_rate_rises_and_then_follows_its_schedule(
    schedule: Any, rates: dict[int, float]
) -> None:
    steps: Any = {"warmup": 5, "num_steps": 15}
    built = optimizer_factory("sgd", learning_rate=2.0, learning_rate_schedule=schedule, **steps)()
    for optimizer in (built, copy_of(built)):
        rate = optimizer._learning_rate
        np.testing.assert_allclose([rate(s) for s in range(5)], 2 * np.arange(1, 6) / 6, rtol=1e-6)
        for step, share in rates.items():
            np.testing.assert_allclose(rate(step), 2 * share, atol=1e-6)


class Scaled(keras.optimizers.Optimizer):
    """An optimizer of the user's own, whose config lacks an argument."""

    def __init__(self, scale: float, **others: Any) -> None:
        super().__init__(**others)
        self.scale = scale
        self.seen = keras.Variable(2.0, trainable=False, name="seen")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign_sub(variable, learning_rate * self.scale * gradient)


def test_a_copy_does_what_was_set_on_the_original() -> None:
    scaled = Scaled(3.0, learning_rate=0.5)
    scaled.seen.assign(7.0)
    scaled.iterations.assign(4)
    made = copy_of(scaled)
    made.seen.assign_add(1.0)
    assert (made.scale, float(scaled.seen), float(made.seen)) == (3.0, 7.0, 8.0)
    assert int(made.iterations) == 4
    adam = keras.optimizers.AdamW()
    adam.learning_rate, adam.beta_1 = 0.25, 0.5
    adam.exclude_from_weight_decay(var_names=["bias"])
    made = copy_of(adam)
    assert (float(made.learning_rate), made.beta_1) == (0.25, 0.5)
    assert made._exclude_from_weight_decay_pattern == adam._exclude_from_weight_decay_pattern
    made.build([keras.Variable(1.0)])
    assert not adam.built


def test_an_optimizer_that_was_used_elsewhere_is_refused() -> None:
    optimizer = keras.optimizers.SGD()
    optimizer.build([keras.Variable(1.0)])
    with pytest.raises(InputError, match=r"'sgd.*' belongs to .* another model.*give a new one"):
        harness.Trainer(lambda inputs: inputs, optimizer=optimizer)


def test_a_warm_up_that_leaves_no_step() -> None:
    with pytest.raises(InputError, match=r"--warmup is 10, but .* 10 steps; set --warmup to 9 or"):
        optimizer_factory("adam", warmup=10, num_steps=10)()


def test_a_trainer_with_a_named_optimizer_does_not_start_tensorflow() -> None:
    """TensorFlow would take all memory of every GPU: the devices are set up at the first fit."""
    program = """
import harness
from harness.program.optimizer import optimizer_factory
from tensorflow.python.eager import context
factory = optimizer_factory("adam", learning_rate_schedule="linear", warmup=2, num_steps=9)
for optimizer in ("adam", factory):
    harness.Trainer(lambda inputs: inputs, optimizer=optimizer)
print(context.context()._initialized)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
