"""What a user or a callback sets on the optimizer holds from the next fit on, as in Keras."""

import contextlib
import copy
import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.base.errors import InputError

TOKENS, ROWS = 40, 60
kinds, schedules = keras.optimizers, keras.optimizers.schedules
RNG = np.random.default_rng()
IDS = [RNG.permutation(TOKENS)[:5] for _ in range(ROWS)]
DATA = harness.Examples(
    inputs={"": harness.RaggedSets.from_lists(IDS, num_tokens=TOKENS)},
    labels=RNG.integers(0, 2, ROWS),
)
ARRAYS = {
    "values": np.concatenate(IDS).astype(np.int32),
    "row_splits": np.arange(0, 5 * ROWS + 1, 5, dtype=np.int32),
}
DENSE = np.zeros([ROWS, TOKENS], np.float32)
for place, row in enumerate(IDS):
    DENSE[place, row] = 1

# A gradient that rounding dominates moves a weight as far as any other, unless epsilon is above it.
ADAM = partial(kinds.Adam, epsilon=1e-3)


def end(x: Any) -> Any:
    return keras.layers.Dense(1, activation="sigmoid")(x)


def network(inputs: Any, **options: Any) -> Any:
    return end(harness.MultiHotDense(6, TOKENS, activation="tanh", **options)(inputs))


def trainer(optimizer: Any, model: Any = network, **settings: Any) -> harness.Trainer:
    how = {"batch_size": 20, "implementation": "gather", **settings}
    return harness.Trainer(model, optimizer=optimizer, **how)


def assert_close(model: keras.Model, other: keras.Model, *, rtol: float = 1e-4) -> None:
    for value, same in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(value, same, rtol=rtol, atol=0.02 * rtol)


class Twins:
    """The same network in a trainer and in Keras, trained on the same rows in the same order."""

    def __init__(self, make: Callable[[], Any], **settings: Any) -> None:
        self.given, theirs = make(), make()
        self.own = trainer(self.given, **settings)
        self.own.predict(DATA)
        inputs = keras.Input([TOKENS])
        self.model = keras.Model(inputs, end(keras.layers.Dense(6, activation="tanh")(inputs)))
        self.model.set_weights(self.own.model.get_weights())
        self.model.compile(theirs, "binary_crossentropy", jit_compile=False)

    def fit(self, *, epochs: int = 1, callbacks: Callable[[], Any] = list) -> None:
        how: dict[str, Any] = {"epochs": epochs, "shuffle": False}
        self.own.fit(DATA, callbacks=callbacks(), verbose=False, **how)
        labels = np.asarray(DATA.labels, np.float32)[:, None]
        # Keras too takes up attributes when it traces a step.
        self.model.make_train_function(force=True)
        self.model.fit(DENSE, labels, batch_size=20, callbacks=callbacks(), verbose=0, **how)
        assert_close(self.own.model, self.model)
        rates = [o.learning_rate for o in (self.given, self.own.optimizer, self.model.optimizer)]
        assert len({float(rate) for rate in rates}) == 1 or self.has_schedule

    has_schedule = False

    def set(self, **attributes: Any) -> None:
        for optimizer in (self.given, self.model.optimizer):
            for name, value in attributes.items():
                setattr(optimizer, name, value)


def test_averages_begin_with_the_training() -> None:
    given = kinds.Adam()
    own = trainer(given)
    own.fit(DATA, verbose=False)
    given.use_ema = True
    with pytest.raises(InputError, match="use_ema was set"):
        own.fit(DATA, verbose=False)


def test_a_learning_rate_that_is_set_between_fits_holds() -> None:
    both = Twins(partial(kinds.SGD, 0.5))
    both.fit()
    for rate in (0.0, 0.3, 0.5):
        both.set(learning_rate=rate)
        both.fit()
    assert both.own.step == 12
    for optimizer in (both.own.optimizer, both.model.optimizer):
        optimizer.learning_rate = 0.05
    both.fit()
    assert both.given.learning_rate == np.float32(0.05)


@pytest.mark.parametrize(
    ("make", "attributes"),
    [
        (
            partial(kinds.AdamW, 0.05, weight_decay=0.1),
            {"beta_1": 0.5, "learning_rate": 0.02, "clipnorm": 0.01, "weight_decay": 2.0},
        ),
        (partial(kinds.Nadam, 0.05), {"learning_rate": schedules.CosineDecay(0.1, 20)}),
        (
            partial(ADAM, schedules.CosineDecay(0.1, 9)),
            {"learning_rate": schedules.CosineDecay(0.1, 20)},
        ),
        (partial(kinds.Adafactor, 0.05), {"learning_rate": schedules.CosineDecay(0.1, 20)}),
    ],
    ids=["numbers", "to a schedule", "schedule", "slots without names"],
)
def test_other_attributes_hold_and_slots_go_on(make: Any, attributes: dict[str, Any]) -> None:
    both = Twins(make)
    both.has_schedule = True
    both.fit(epochs=2)
    both.set(**attributes)
    both.fit(epochs=2)
    assert int(both.own.optimizer.iterations) == both.own.step == 12
    before = both.own._setup
    both.fit()
    assert both.own._setup is before, "nothing was set, so nothing is compiled again"


@pytest.mark.parametrize(
    ("make", "tables"),
    [
        (ADAM, "dense"),
        (ADAM, "exact_adam"),
        (kinds.Adafactor, "dense"),
        (partial(ADAM, gradient_accumulation_steps=2), "dense"),
    ],
    ids=["adam", "by rows", "slots without names", "accumulated gradients"],
)
def test_what_an_optimizer_keeps_of_a_frozen_layer_waits_for_it(make: Any, tables: str) -> None:
    both = Twins(partial(make, 0.05), implementation="native", table_optimizer=tables)
    both.fit()
    for place, frozen in ((0, True), (0, False), (1, True), (1, False)):
        for model in (both.own.model, both.model):
            layers = [layer for layer in model.layers if layer.weights]
            layers[place].trainable = not frozen
        both.model.compile(both.model.optimizer, "binary_crossentropy", jit_compile=False)
        both.own.predict(DATA)
        if frozen:
            both.own = copy.deepcopy(both.own)
            both.given = both.own._optimizer
        both.fit()
    assert int(both.own.optimizer.iterations) == int(both.model.optimizer.iterations)


def test_the_rate_of_a_callback_goes_on_and_another_one_replaces_it() -> None:
    def halving() -> list[Any]:
        return [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)]

    both = Twins(partial(kinds.SGD, 0.5, momentum=0.5))
    both.fit(epochs=2, callbacks=halving)
    assert both.given.learning_rate == 0.125
    both.fit()
    both.set(learning_rate=0.5)  # again the first one
    both.fit(epochs=2, callbacks=halving)
    assert both.own.optimizer.learning_rate == 0.125

    def own_rate(epoch: int, logs: Any, optimizer: Any) -> None:
        optimizer.learning_rate = 0.01

    held = partial(own_rate, optimizer=both.given)
    both.own.fit(
        DATA, callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=held)], verbose=False
    )
    assert both.own.optimizer.learning_rate == np.float32(0.01)


def test_a_table_of_touched_rows_takes_up_its_optimizer() -> None:
    both = Twins(partial(kinds.Adam, 0.05), table_optimizer="exact_adam", implementation="native")
    both.fit(epochs=2)
    both.set(beta_1=0.5, learning_rate=0.02)
    both.fit(epochs=2)


def test_an_optimizer_that_needs_all_rows_gets_them() -> None:
    """A decay of weights is about rows that a batch leaves out, too."""

    def large(inputs: Any) -> Any:
        return end(harness.MultiHotDense(8, 3_000, activation="tanh")(inputs))

    sets = harness.RaggedSets.from_lists(IDS, num_tokens=3_000)
    rows = harness.Examples(inputs={"": sets}, labels=DATA.labels)
    given = kinds.Adam(0.01)
    own = trainer(given, large, implementation="native")
    dense = trainer(kinds.Adam(0.01), large, table_optimizer="dense")
    for number, kind in enumerate(("exact_adam", "dense")):
        for each in (own, dense):
            each.fit(rows, verbose=False)
        assert own.last is not None
        assert own.last.start.choices["table_optimizer"].name == kind
        assert_close(own.model, dense.model)
        assert int(own.optimizer.iterations) == 3 * (number + 1)
        given.weight_decay = dense.optimizer.weight_decay = 0.5
    own.predict(rows)
    before = own.model.get_weights()
    own.fit(rows, verbose=False)
    rest = slice(TOKENS, None)  # rows that no batch touches
    after = own.model.get_weights()[0][rest]
    np.testing.assert_allclose(after, before[0][rest] * 0.995**3, rtol=1e-5)


def test_two_devices_take_up_a_rate(logical_devices: list[str]) -> None:
    two = tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(len(logical_devices))])
    both = Twins(partial(kinds.Adam, 0.05), strategy=two)
    both.fit()
    both.set(learning_rate=0.2, beta_2=0.5)
    both.fit()


def test_an_optimizer_by_name_is_there_after_a_fit() -> None:
    own = trainer("sgd")
    for begin in (lambda: None, lambda: own.predict(DATA)):
        begin()
        with pytest.raises(InputError, match="call fit before"):
            _ = own.optimizer
    own.fit(DATA, verbose=False)
    assert int(own.optimizer.iterations) == 3
    own.optimizer.learning_rate = 0.0
    own.optimizer.clipvalue = 0.5
    before = own.model.get_weights()
    for other in (own, copy.deepcopy(own)):
        other.fit(DATA, verbose=False)
        for value, same in zip(other.model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(value, same)
        assert other.optimizer.clipvalue == 0.5
        assert other.step == 6


def test_a_copy_takes_up_what_is_set_on_it() -> None:
    own = trainer(kinds.Adam(0.05))
    own.fit(DATA, verbose=False)
    own.optimizer.learning_rate = 0.01
    other, stays = (pickle.loads(pickle.dumps(own)) for _ in range(2))
    assert other.optimizer.learning_rate == np.float32(0.01)
    stays.optimizer.learning_rate = 0.0
    stays.fit(DATA, verbose=False)
    losses = [each.fit(DATA, verbose=False).history["loss"] for each in (own, other)]
    assert losses[0] == losses[1]
    for value, same in zip(stays.model.get_weights(), other.model.get_weights(), strict=True):
        assert not np.array_equal(value, same)
    assert own.optimizer.learning_rate == np.float32(0.01)


def test_config_json_has_the_rate_that_was_set(tmp_path: Path) -> None:
    halving = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    how: dict[str, Any] = {"run_dir": tmp_path / "a", "callbacks": [halving], "verbose": False}
    given = kinds.SGD(0.5)
    own = trainer(given)
    own.fit(DATA, **how)
    own.fit(DATA, epochs=2, resume=True, **how)
    assert own.step == 6
    assert given.learning_rate == 0.125
    fresh = kinds.SGD(0.5)
    trainer(fresh).fit(DATA, epochs=3, resume=True, **how)
    assert fresh.learning_rate == 0.0625
    given.learning_rate = 0.25
    with pytest.raises(InputError, match=r"learning_rate was 0\.5 and is now 0\.25"):
        own.fit(DATA, epochs=3, resume=True, **how)
    own.fit(DATA, run_dir=tmp_path / "b", verbose=False)
    recorded = json.loads((tmp_path / "b" / "config.json").read_text())
    assert recorded["optimizer"]["learning_rate"] == 0.25


class Breaking(keras.callbacks.Callback):
    """Raises an error at one of the calls of a hook."""

    def __init__(self, hook: str, call: int = 1) -> None:
        super().__init__()
        self.left = call
        setattr(self, hook, self.broken)

    def broken(self, *arguments: Any, **named: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole() -> harness.Trainer:
    """Trains four epochs that nothing breaks off."""
    made = trainer("adam", seed=3)
    made.fit(DATA, epochs=4, verbose=False)
    return made


@pytest.mark.parametrize(
    ("hook", "call", "steps"),
    [
        ("on_train_begin", 1, 0),
        ("on_train_batch_end", 2, 2),
        ("on_test_begin", 2, 6),
        ("on_epoch_end", 2, 6),
    ],
)
def test_after_an_error_in_a_callback_steps_and_rows_go_on(
    hook: str, call: int, steps: int, whole: harness.Trainer
) -> None:
    broken = trainer("adam", seed=3)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(DATA, epochs=2, validation=DATA, callbacks=[Breaking(hook, call)], verbose=False)
    assert broken.step == steps
    if steps:
        assert int(broken.optimizer.iterations) == steps
    rest = broken.fit(DATA, epochs=4 - steps // 3, verbose=False)
    assert broken.step == whole.step == 12
    assert whole.last is not None
    losses = whole.last.history.history["loss"][steps // 3 :]
    np.testing.assert_allclose(rest.history["loss"], losses, rtol=1e-5)
    for value, same in zip(broken.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(value, same, rtol=1e-5, atol=1e-6)


def test_after_an_error_a_resumed_run_has_the_steps_of_its_checkpoint(tmp_path: Path) -> None:
    how: dict[str, Any] = {"run_dir": tmp_path / "run", "verbose": False}
    trainer("adam").fit(DATA, epochs=2, **how)
    own = trainer("adam")
    with contextlib.suppress(KeyboardInterrupt):
        own.fit(DATA, epochs=3, resume=True, callbacks=[Breaking("on_train_begin")], **how)
    assert own.step == 6
    own.fit(DATA, epochs=3, resume=True, **how)
    assert own.step == 9


def own_layer(policy: str | None, of_layer: str = "mixed_float16") -> keras.Model:
    """Returns a network with a single layer of another policy; with a policy, that of the model."""
    inputs = {
        name: keras.Input(batch_shape=(None,), dtype="int32", name=name)
        for name in ("values", "row_splits")
    }
    x = harness.MultiHotDense(6, TOKENS, activation="tanh")(inputs)
    x = keras.layers.Dense(6, activation="tanh", dtype=of_layer)(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", dtype="float32")(x))
    model.dtype_policy = policy or model.dtype_policy
    return model


def train_by_keras(model: keras.Model, optimizer: Any) -> None:
    model.compile(optimizer, "binary_crossentropy", jit_compile=False)
    labels = np.asarray(DATA.labels, np.float32)[:, None]
    for first in range(0, ROWS, 20):
        values = np.concatenate(IDS[first : first + 20]).astype(np.int32)
        batch = {"values": values, "row_splits": np.arange(0, 101, 5, dtype=np.int32)}
        model.train_on_batch(batch, labels[first : first + 20])


@pytest.mark.parametrize("of_layer", ["mixed_float16", "float64"])
@pytest.mark.parametrize("policy", [None, "mixed_float16"])
def test_the_policy_of_the_model_decides_whether_the_loss_is_scaled(
    policy: str | None, of_layer: str
) -> None:
    models = [own_layer(policy, of_layer) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    own = trainer(kinds.SGD(0.5), models[0])
    own.fit(DATA, shuffle=False, verbose=False)
    train_by_keras(models[1], kinds.SGD(0.5))
    assert_close(own.model, models[1], rtol=5e-3)
    scaled = isinstance(models[1].optimizer, kinds.LossScaleOptimizer)
    assert scaled == (policy is not None)
    for each in (own, copy.deepcopy(own)):
        each.fit(DATA, verbose=False)
        assert each.last is not None
        assert each.last.progress is not None
        assert each.last.progress.last_window is not None
        assert (each.last.progress.last_window.loss_scale is not None) == scaled
        why = each.last.start.choices["precision"].why
        lacks = of_layer == "mixed_float16" and not scaled
        assert ("dtype_policy='mixed_float16' scales the loss" in why) == lacks


def test_two_loaded_models_of_one_name_are_trained_as_one(tmp_path: Path) -> None:
    """As an ensemble of folds, and in a subclass, whose layers may have one name."""

    def dropping(inputs: Any) -> Any:
        return end(harness.HashDropout(0.5)(network(inputs)))

    made = trainer("adam", dropping)
    made.fit(DATA, verbose=False)
    made.save(tmp_path / "one.keras")

    @keras.saving.register_keras_serializable("tests")
    class Both(keras.Model):  # type: ignore[misc]
        def __init__(self, parts: Any, **options: Any) -> None:
            super().__init__(**options)
            self.parts = parts

        def call(self, inputs: Any, training: bool = False) -> Any:
            outputs = [part(inputs, training=training) for part in self.parts]
            return (outputs[0] + outputs[1]) / 2

    def loaded() -> list[Any]:
        return [harness.load_model(tmp_path / "one.keras") for _ in range(2)]

    task = harness.Task(loss="binary_crossentropy")
    own = trainer("adam", Both(loaded()), task=task)
    before = own.predict(DATA)
    np.testing.assert_allclose(before, made.predict(DATA), rtol=1e-5)
    own.fit(DATA, verbose=False)
    assert not np.allclose(own.predict(DATA), before)
    for part in own.model.parts:  # the new variables have one name again
        part.layers[-1].quantize("int8")
    own.fit(DATA, verbose=False)
    assert own.step == 6
    np.testing.assert_allclose(own.predict(DATA), own.model(ARRAYS), rtol=1e-2)


@pytest.mark.parametrize("by_rows", [False, True])
def test_an_ensemble_trains_as_in_keras(
    tmp_path: Path, by_rows: bool, whole: harness.Trainer
) -> None:
    whole.save(tmp_path / "one.keras")

    def ensemble() -> keras.Model:
        parts = [harness.load_model(tmp_path / "one.keras") for _ in range(2)]
        for part, name in zip(parts, "ab", strict=True):
            part.name = name
        inputs = {n: keras.Input([], dtype="int32", name=n) for n in ("values", "row_splits")}
        outputs = [part(inputs) for part in parts]
        return keras.Model(inputs, 0.7 * outputs[0] + 0.3 * outputs[1])

    how: dict[str, Any] = {"table_optimizer": "sgd"} if by_rows else {}
    task = harness.Task(loss="binary_crossentropy")
    own, theirs = trainer(kinds.SGD(0.5), ensemble(), task=task, **how), ensemble()
    own.fit(DATA, shuffle=False, verbose=False)
    train_by_keras(theirs, kinds.SGD(0.5))
    assert_close(own.model, theirs)
    other = copy.deepcopy(own)
    losses = [each.fit(DATA, verbose=False).history for each in (own, other)]
    assert losses[0] == losses[1]
    own.save(tmp_path / "both.keras")
    again = harness.load_model(tmp_path / "both.keras")
    assert_close(again, own.model, rtol=1e-7)


@pytest.mark.parametrize(("mode", "rank"), [("int8", 0), ("float8", 0), ("int8", 2)])
def test_a_quantized_model_predicts_as_in_keras(mode: str, rank: int) -> None:
    def deep(inputs: Any) -> Any:
        return end(keras.layers.Dense(8, name="quantized")(network(inputs)))

    own = trainer("adam", deep)
    own.fit(DATA, verbose=False)
    layer = own.model.get_layer("quantized")
    if rank:
        layer.enable_lora(rank)
        own.fit(DATA, verbose=False)
    before = own.predict(DATA)
    layer.quantize(mode)
    expected = keras.ops.convert_to_numpy(own.model(ARRAYS))
    # An input that another order of sums changes by a bit may round to the next number of 8 bits.
    np.testing.assert_allclose(own.predict(DATA), expected, rtol=1e-2)
    assert not np.array_equal(own.predict(DATA), before)
    own.fit(DATA, verbose=False)
    assert own.step == (9 if rank else 6)
