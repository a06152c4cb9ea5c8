"""Every optimizer on offer: built, compiled, and with the same results as Keras's own."""

from typing import Any

import keras
import numpy as np
import pytest

import harness
from harness.base.errors import InputError
from harness.model.optimizers import optimizer_factory
from harness.program.optimizer import copy_of, kept_bytes

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


def test_an_optimizer_that_was_used_elsewhere_is_refused() -> None:
    optimizer = keras.optimizers.SGD()
    optimizer.build([keras.Variable(1.0)])
    with pytest.raises(InputError, match=r"'sgd.*' belongs to .* another model.*give a new one"):
        harness.Trainer(lambda inputs: inputs, optimizer=optimizer)


def test_a_warm_up_that_leaves_no_step() -> None:
    with pytest.raises(InputError, match=r"--warmup is 10, but .* 10 steps; set --warmup to 9 or"):
        optimizer_factory("adam", warmup=10, num_steps=10)()
