"""Two devices with a state each. XLA compiles an all-reduce only for GPUs: here the same functions
run uncompiled on two logical CPU devices."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.feed.plan import Call
from harness.model.layers import MultiHotDense
from harness.model.network import float32_twin
from harness.program.cut_step import CutLoops, CutStep
from harness.program.devices import Devices
from harness.program.inspection import look_at_gradients
from harness.program.program import Program
from harness.program.step import Caller, training_step
from harness.task.multinomial import Multinomial
from harness.task.task import Task
from kernels.multi_hot.native.build import find_compiler
from kernels.multi_hot.table_rules import Rule
from tests.harness.program import rig as rigs
from tests.harness.program.rig import Batches, Rig, assert_same
from tests.harness.random_sets import random_sets

# One call takes all batches of an epoch but the last, which has a program of its own.
build_rig = partial(rigs.build_rig, steps_per_call=5)


@pytest.fixture(scope="module")
def two(logical_devices: list[str]) -> Devices:
    names = ("/CPU:0", "/CPU:1")
    assert len(logical_devices) == 2
    return Devices(
        names=names, num_replicas=2, device_type="CPU", descriptions=names, memory_bytes=2**30
    )


@pytest.fixture(scope="module")
def sets() -> RaggedSets:
    return random_sets(np.random.default_rng(), rows=45, unique=True)


def run(program: Program, call: Call, batches: Batches) -> list[Any]:
    """Runs a call on both devices at once, uncompiled."""
    return uncompiled(program, call, batches)(call, batches)


def uncompiled(
    program: Program, call: Call, batches: Batches, *, cut: bool = False
) -> Callable[[Call, Batches], Any]:
    """Returns a function that runs a call like this one on both devices at once; with `cut`, all
    but the all-reduce is compiled, as between workers."""
    if cut:
        assert isinstance(program.step, CutStep)
        loops = CutLoops(
            program.step,
            program.states,
            program._sums,
            implementation=program.implementation,
            row_sums=program.row_sums,
        )
        together = tf.function(loops.loop(call), autograph=False)
        return lambda call, batches: together(batches[call.rows], tf.constant(call.first, tf.int64))
    functions = []
    for device, own in enumerate(batches[call.rows]):
        loop = program.on_device(device, call).python_function
        with tf.device(f"/CPU:{device}"):
            plain = tf.function(loop, autograph=False)
            functions.append(plain.get_concrete_function(own, tf.constant(0, tf.int64)))

    def run(call: Call, batches: Batches) -> Any:
        def on(device: int) -> Any:
            with tf.device(f"/CPU:{device}"):
                own = batches[call.rows][device]
                return functions[device](own, tf.constant(call.first, tf.int64))

        with ThreadPoolExecutor(2) as pool:  # each waits for the other in every all-reduce
            return list(pool.map(on, range(2)))

    return run


def train(rig: Rig, *, cut: bool = False, program: Program | None = None) -> np.ndarray:
    """Trains by the rig's training program or another; returns the sums of each call, as
    `Rig.train` does."""
    loops: dict[Any, Any] = {}

    def loop(call: Call, batches: Batches) -> Any:
        kind = replace(call, first=0)
        if kind not in loops:
            loops[kind] = uncompiled(program or rig.training, call, batches, cut=cut)
        return loops[kind](call, batches)

    return np.array(
        [
            np.sum([sums.numpy() for sums in loop(call, batches)], axis=0)
            for dispatch, batches in rig.dispatches()
            for call in dispatch.calls
        ]
    )


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
    np.testing.assert_allclose(train(both, cut=True), expected, rtol=1e-5)
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
    call = Caller(both.model, implementation="gather", num_workers=2)
    program = Program(
        "training", training_step(call, both.task, unused=[]),
        states=both.states, implementation="gather", row_sums=2,
    )  # fmt: skip
    np.testing.assert_allclose(train(both, program=program), alone.train(), rtol=1e-5)
    assert_same(*both.values())


def test_the_likelihood_of_items_is_that_of_one_device(two: Devices) -> None:
    """Labels are ragged sets, of which the last batch has a row for one device only."""
    rng = np.random.default_rng()
    seen, bought = (random_sets(rng, rows=41, unique=False) for _ in range(2))
    rows = Examples(inputs={"": seen}, labels=bought)

    def of_items(inputs: Any) -> Any:
        return keras.layers.Dense(50)(MultiHotDense(6, 50, activation="gelu")(inputs))

    task = Task(loss=Multinomial(num_samples=50))
    both, alone = (build_rig(rows, model=of_items, task=task, devices=d) for d in (two, None))
    alone.set_weights(both.weights())
    np.testing.assert_allclose(train(both), alone.train(), rtol=1e-5)
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
    """The optimizer is Adam, which squares the gradient of each occurrence of a place."""
    sets = random_sets(np.random.default_rng(), rows=46, num_tokens=40)
    both, alone = (build_rig(sets, model=with_places, devices=d) for d in (two, None))
    alone.set_weights(both.weights())
    np.testing.assert_allclose(train(both), alone.train(), rtol=1e-5)
    for trained, expected in zip(both.weights(), alone.weights(), strict=True):
        np.testing.assert_allclose(trained, expected, rtol=1e-4, atol=1e-5)
    assert_same(*both.values())


def test_a_lookup_of_places_is_refused_where_shares_are_unequal(two: Devices) -> None:
    sets = random_sets(np.random.default_rng(), rows=45, num_tokens=40)
    both = build_rig(sets, model=with_places, devices=two)
    with pytest.raises(InputError, match=r"5 rows does not divide among 2 devices.* one device"):
        train(both)


def test_devices_agree_on_all_but_dropout(two: Devices, sets: RaggedSets) -> None:
    rig = build_rig(sets, devices=two, dropout=0.3, precision="mixed_float16")
    train(rig)
    first, second = (state.save() for state in rig.states)
    differing = {name for name in first if not np.array_equal(first[name], second[name])}
    seeds = {name for name in first if "seed_generator" in name}
    assert differing == seeds
    for name in seeds:  # the same number of draws: only where they began differs
        assert first[name][1] == second[name][1] > 0


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
    sums = run(rig.training, call, batches)
    assert [bool(np.isfinite(own.numpy()).all()) for own in sums] == [True, False]
    for state in rig.states:
        assert state.loss_scale is not None
        assert float(state.loss_scale.scale) == 2.0**14
        assert int(state.loss_scale.skipped_steps) == 1
    assert_same(rig.weights(), poisoned)
    rig.set_weights(weights)  # the next one, with finite weights, is taken again
    run(rig.training, call, batches)
    assert int(rig.states[1].loss_scale.skipped_steps) == 1  # type: ignore[union-attr]
    assert not np.array_equal(rig.weights()[0], weights[0])


def test_a_look_at_gradients_reduces_both_kinds(two: Devices, sets: RaggedSets) -> None:
    """Those of the table are by rows, the others dense."""
    rig = build_rig(sets, devices=two, precision="mixed_bfloat16", rule=Rule("sgd"))
    looking = Program(
        "look",
        look_at_gradients(rig.call, rig.task, reference=float32_twin(rig.model)),
        states=rig.states,
        implementation="gather",
    )
    dispatch, batches = next(rig.dispatches())
    call = replace(dispatch.calls[0], num_steps=1)
    (gradients, _), (others, _) = run(looking, call, batches)
    assert_same([g.numpy() for g in gradients], [g.numpy() for g in others])
    assert all(np.any(g.numpy()) for g in gradients)


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
    np.testing.assert_allclose(train(both), alone.train(), rtol=1e-5)
    counted = [
        np.sum([own.numpy() for state in rig.states for own in state.sums[0]])
        for rig in (both, alone)
    ]
    assert counted[0] == counted[1] > 0
    for state in both.states:
        for sums in state.sums[0]:
            sums.assign(tf.zeros_like(sums))
    assert_same(*both.values())
    saved, expected = both.states[0].save(), alone.states[0].save()
    kept = [f"norm/{name}" for name in ("moving_mean", "moving_variance", "gamma", "beta")]
    for name in [*kept, "counted/mean"]:
        path = f"model/{name}"
        np.testing.assert_allclose(saved[path], expected[path], rtol=1e-4, atol=1e-6)
