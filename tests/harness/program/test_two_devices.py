"""Two replicas on two logical CPU devices, of which XLA compiles all but the exchange of gradients,
as between workers. On GPUs the exchange is a part of the program; tests/emulated_gpu has it."""

from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.model.layers import MultiHotDense
from harness.program.devices import Devices
from harness.program.step import TrainStep
from harness.program.strategy import copies_of
from harness.task.multinomial import Multinomial
from harness.task.task import Task
from kernels.multi_hot.native.build import find_compiler
from kernels.multi_hot.table_rules import Rule
from tests.harness.program import rig as rigs
from tests.harness.program.rig import assert_same, on_cpus
from tests.harness.random_sets import random_sets

# One call takes all batches of an epoch but the last, which has a program of its own.
build_rig = partial(rigs.build_rig, steps_per_call=5)


@pytest.fixture(scope="module")
def two(logical_devices: list[str]) -> Devices:
    assert len(logical_devices) == 2
    return on_cpus(2)


@pytest.fixture(scope="module")
def sets() -> RaggedSets:
    return random_sets(np.random.default_rng(), rows=45, unique=True)


@pytest.mark.parametrize(("kind", "last"), [("adagrad", 1), ("exact_adam", 5)])
def test_tables_are_updated_by_the_rows_of_both_devices(two: Devices, kind: Any, last: int) -> None:
    """The result is that of one device, also with weights of ids and a clip norm."""
    rng = np.random.default_rng()
    weighted = kind == "adagrad"
    sets = random_sets(
        rng, rows=40 + last, num_tokens=4_000, unique=not weighted, weighted=weighted
    )
    native = kind == "exact_adam"
    if native and find_compiler() is None:
        pytest.skip("needs a C++ compiler")
    settings: dict[str, Any] = {"activation": "gelu", "rule": Rule(kind), "epochs": 2}
    settings["implementation"] = "native" if native else "gather"
    settings |= {"learning_rate": 0.05, "clip_norm": 0.5 if kind == "adagrad" else None}
    both, alone = build_rig(sets, devices=two, **settings), build_rig(sets, **settings)
    expected = alone.train()
    np.testing.assert_allclose(both.train(), expected, rtol=1e-5)
    assert_same(*both.values())
    for own, others in zip(both.values()[0], alone.values()[0], strict=True):
        np.testing.assert_allclose(own, others, rtol=1e-3, atol=1e-4)


class Large(keras.Model):
    """A model with a table that is called twice, and also read directly."""

    def __init__(self) -> None:
        super().__init__()
        self.table = MultiHotDense(16, 5_000, name="table")
        self.out = keras.layers.Dense(1)

    def call(self, inputs: Any) -> Any:
        products = self.table(inputs) * self.table(inputs)
        return self.out(keras.ops.gelu(products) * (1 + self.table.kernel[0, 0]))


def test_workers_find_a_large_tables_gradient_from_products(two: Devices) -> None:
    """The gradient is that of one device, also for a layer that is called twice, and for another
    use of its table."""
    rng = np.random.default_rng()
    sets = random_sets(rng, rows=41, num_tokens=5_000, unique=False, weighted=True)
    both = build_rig(sets, model=Large(), devices=two)
    alone = build_rig(sets, model=Large())
    alone.set_weights(both.weights())
    step = both.training.step
    assert isinstance(step, TrainStep)
    loops = both.training._worker_loops
    assert loops is not None
    loops.step = replace(step, forward=replace(step.forward, num_workers=2))
    np.testing.assert_allclose(both.train(), alone.train(), rtol=1e-5)
    assert_same(*both.values())


def test_the_likelihood_of_items_is_that_of_one_device(two: Devices) -> None:
    """Labels are ragged sets, of which the last batch has a row for one device only. The optimizer
    is SGD: of drawn items the gradient is by rows, which replicas make dense."""
    rng = np.random.default_rng()
    seen, bought = (random_sets(rng, rows=41, unique=False) for _ in range(2))
    rows = Examples(inputs={"": seen}, labels=bought)

    def of_items(inputs: Any) -> Any:
        return keras.layers.Dense(50)(MultiHotDense(6, 50, activation="gelu")(inputs))

    task = Task(loss=Multinomial(num_samples=50))
    how: dict[str, Any] = {"model": of_items, "task": task, "optimizer": "sgd"}
    both, alone = (build_rig(rows, devices=d, **how) for d in (two, None))
    alone.set_weights(both.weights())
    np.testing.assert_allclose(both.train(), alone.train(), rtol=1e-5)
    assert_same(*both.values())
    for trained, expected in zip(both.weights(), alone.weights(), strict=True):
        np.testing.assert_allclose(trained, expected, rtol=1e-3, atol=1e-4)


class Places(keras.layers.Layer):
    """Sums the vectors of the places of a row's first 8 ids, whatever the ids are."""

    def build(self, input_shape: Any) -> None:
        self.vectors = self.add_weight(name="vectors", shape=(40, 6))

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor((None, 6))

    def call(self, inputs: Any) -> Any:
        splits = inputs["row_splits"]
        lengths = tf.minimum(splits[1:] - splits[:-1], 8)
        places = tf.tile(tf.range(8)[None], [tf.shape(lengths)[0], 1])
        vectors = tf.gather(tf.convert_to_tensor(self.vectors), places)
        return tf.reduce_sum(vectors * tf.sequence_mask(lengths, 8, vectors.dtype)[..., None], 1)


def with_places(inputs: Any) -> Any:
    return keras.layers.Dense(1)(Places()(inputs))


def test_a_lookup_of_places_trains_as_on_one_device(two: Devices) -> None:
    """The optimizer is SGD: Adam would square the sums of a place's gradients, not each of them,
    since replicas make gradients by rows dense before they add them up."""
    sets = random_sets(np.random.default_rng(), rows=45, num_tokens=40)
    how: dict[str, Any] = {"model": with_places, "optimizer": "sgd", "learning_rate": 0.1}
    both, alone = (build_rig(sets, devices=d, **how) for d in (two, None))
    alone.set_weights(both.weights())
    np.testing.assert_allclose(both.train(), alone.train(), rtol=1e-5)
    for trained, expected in zip(both.weights(), alone.weights(), strict=True):
        np.testing.assert_allclose(trained, expected, rtol=1e-4, atol=1e-5)
    assert_same(*both.values())


def test_devices_agree_on_all_but_dropout(two: Devices, sets: RaggedSets) -> None:
    rig = build_rig(sets, devices=two, dropout=0.3, precision="mixed_float16")
    rig.train()
    both = {n: [c.numpy() for c in copies_of(v)] for n, v in rig.state.named.items()}
    differing = {name for name, (one, other) in both.items() if not np.array_equal(one, other)}
    seeds = {name for name in both if "seed_generator" in name}
    assert differing == seeds
    for name in seeds:  # the same number of draws: only where they began differs
        assert both[name][0][1] == both[name][1][1] > 0


def test_one_devices_nan_skips_the_step_on_both(two: Devices) -> None:
    device, rows = 1, 8  # row i holds the id i alone
    ids = RaggedSets.from_lists(np.arange(rows)[:, None], labels=np.arange(rows) % 2)
    rig = build_rig(ids, devices=two, precision="mixed_float16", steps_per_call=1)
    ((dispatch, batches),) = rig.dispatches()
    (call,) = dispatch.calls
    weights = rig.weights()
    poisoned = [w.copy() for w in weights]
    poisoned[0][batches[8][device].ragged[""]["values"].numpy()[0, 1]] = np.inf
    rig.set_weights(poisoned)
    rig.training.compile(batches, call, at_step=0)
    sums = rig.training(call, batches)
    assert [bool(np.isfinite(own.numpy()).all()) for own in sums] == [True, False]
    scale = rig.state.loss_scale
    assert scale is not None
    assert [float(copy) for copy in copies_of(scale.scale)] == [2.0**14] * 2
    assert [int(copy) for copy in copies_of(scale.skipped_steps)] == [1, 1]
    assert_same(rig.weights(), poisoned)
    rig.set_weights(weights)  # the next one, with finite weights, is taken again
    rig.run(call, batches)
    assert [int(copy) for copy in copies_of(scale.skipped_steps)] == [1, 1]
    assert not np.array_equal(rig.weights()[0], weights[0])


def test_a_look_at_gradients_reduces_both_kinds(two: Devices, sets: RaggedSets) -> None:
    """Those of the table are by rows, the others dense."""
    rig = build_rig(sets, devices=two, precision="mixed_bfloat16", rule=Rule("sgd"))
    looking = rig.programs._gradients
    dispatch, batches = next(rig.dispatches())
    call = replace(dispatch.calls[0], num_steps=1)
    looking.compile(batches, call, at_step=0)
    gradients, others = looking(call, batches)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, others[name])
        assert np.any(gradient.numpy()), name


class Counted(keras.layers.Layer):
    """A layer that keeps the mean of its inputs, as a user's own layer may."""

    def build(self, _: Any) -> None:
        self.mean = self.add_weight(name="mean", initializer="zeros", trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training:
            self.mean.assign(keras.ops.mean(inputs))
        return inputs


def averaging(inputs: Any) -> Any:
    x = MultiHotDense(4, 50, kernel_regularizer=keras.regularizers.L2(0.1))(inputs)
    x = keras.layers.BatchNormalization(momentum=0.5, name="norm")(x)
    x = Counted(name="counted", activity_regularizer=keras.regularizers.L2(0.1))(keras.ops.gelu(x))
    return keras.layers.Dense(1)(x)


def test_averages_and_added_losses_are_those_of_one_device(two: Devices) -> None:
    """The second device has no row of the last batch."""
    sets = random_sets(np.random.default_rng(), rows=41)
    settings: dict[str, Any] = {"model": averaging, "optimizer": "sgd", "learning_rate": 0.1}
    settings["task"] = Task(metrics=["accuracy", keras.metrics.Recall()])
    both, alone = build_rig(sets, devices=two, **settings), build_rig(sets, **settings)
    np.testing.assert_allclose(both.train(), alone.train(), rtol=1e-5)
    counted = [
        np.sum([copy.numpy() for own in rig.state.sums[0] for copy in copies_of(own)])
        for rig in (both, alone)
    ]
    assert counted[0] == counted[1] > 0
    for sums in both.state.sums[0]:
        for copy in copies_of(sums):
            copy.assign(tf.zeros_like(copy))
    assert_same(*both.values())
    saved, expected = both.state.save(), alone.state.save()
    kept = [f"norm/{name}" for name in ("moving_mean", "moving_variance", "gamma", "beta")]
    for name in [*kept, "counted/mean"]:
        path = f"model/{name}"
        np.testing.assert_allclose(saved[path], expected[path], rtol=1e-4, atol=1e-6)
