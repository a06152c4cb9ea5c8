"""The state of a device, by name, and the changes of a step."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.data.ragged import RaggedSets
from harness.program.devices import Devices
from harness.program.optimizer import optimizer_factory
from harness.program.packing import variables_by_name
from harness.program.state import State
from tests.harness.program.rig import build_rig
from tests.harness.program.test_optimizer import OFFERED
from tests.harness.random_sets import random_sets


@pytest.fixture(scope="module")
def sets() -> RaggedSets:
    return random_sets(np.random.default_rng(), rows=16)


def state_of(model: keras.Model, *, place: int = 0, optimizer: str = "adam") -> State:
    built = optimizer_factory(optimizer)()
    return State(model, built, device="/CPU:0", place=place, share=place)


def test_a_scaled_loss_leaves_int32_alone(sets: RaggedSets) -> None:
    """Adafactor has such variables, which a program of a GPU could not reach."""
    rig = build_rig(sets, optimizer="adafactor", precision="mixed_float16")
    dispatch, batches = next(rig.dispatches())
    call = dispatch.calls[0]
    program = rig.training.on_device(0, call)
    traced = program.get_concrete_function(*batches[call.rows], tf.constant(0, tf.int64))
    assert not [v.name for v in traced.graph.variables if v.dtype == tf.int32]


@pytest.mark.parametrize("optimizer", OFFERED)
def test_what_is_saved_is_restored(optimizer: str) -> None:
    rng = np.random.default_rng()
    state, other = (state_of(averaging_model(), optimizer=optimizer) for _ in range(2))
    for variable in state.variables:
        if variable.dtype.is_floating:
            variable.assign(rng.random(variable.shape))
    saved = state.save()
    # Each variable by a name of its own, also in a process that has made another such optimizer.
    assert sum(array.size for array in saved.values()) == sum(
        variable.shape.num_elements() for variable in state.variables
    )
    other.restore(saved)
    for restored, expected in zip(other.variables, state.variables, strict=True):
        np.testing.assert_array_equal(restored.numpy(), expected.numpy())


def test_what_a_gpu_holds_together_is_saved_by_the_same_names(sets: RaggedSets) -> None:
    of_gpu, of_cpu = (
        build_rig(
            sets, hidden_units=(130, 130, 130, 40, 40), precision="mixed_bfloat16", dropout=0.2,
            devices=Devices(
                names=("/CPU:0",), num_replicas=1, device_type=kind, descriptions=("",),
                memory_bytes=2**30,
            ),
        ).states[0]
        for kind in ("GPU", "CPU")
    )  # fmt: skip
    assert len(of_gpu.trainable) < len(of_cpu.trainable)
    assert of_gpu.kinds == of_cpu.kinds
    of_gpu.restore(of_cpu.save())
    for name, array in of_gpu.save().items():
        np.testing.assert_array_equal(array, of_cpu.save()[name], err_msg=name)


def test_a_model_gets_the_values_that_it_does_not_share(sets: RaggedSets) -> None:
    rig = build_rig(sets, hidden_units=(6, 4), dropout=0.2, steps_per_call=4, batch_size=4)
    rig.randomize(np.random.default_rng())
    rig.train(num_calls=1)
    rig.states[0].write_to_model()
    values = variables_by_name(rig.model)
    trained = {n.removeprefix("model/"): v for n, v in rig.states[0].save().items()}
    for name, variable in values.items():
        np.testing.assert_array_equal(variable.numpy(), trained[name])
    assert [v.numpy()[1] for n, v in values.items() if "seed" in n] == [4, 4], "draws so far"


def test_a_model_may_be_given_other_values(sets: RaggedSets) -> None:
    """A callback may set small weights, large ones, seeds, and the learning rate."""
    rig = build_rig(sets, hidden_units=(6, 4), dropout=0.2)
    (state,) = rig.states
    other = state_of(rig.model, place=1)
    for variable in rig.model.variables:
        variable.assign(variable.numpy() + 1)
    state.optimizer.learning_rate.assign(0.25)
    for each in (state, other):
        each.read_from_model(state)
        own = named(each) | (
            {n.removeprefix("model/"): s for n, s in seeds_of(each).items()}
            if each is state
            else {}
        )
        for name, array in own.items():
            np.testing.assert_array_equal(array, variables_by_name(rig.model)[name].numpy())
        assert float(each.optimizer.learning_rate) == 0.25


def test_devices_have_seeds_of_their_own_that_follow_from_the_first(sets: RaggedSets) -> None:
    rig = build_rig(sets, hidden_units=(6, 4), dropout=0.2)
    (first,) = rig.states
    second = state_of(rig.model, place=1)
    seeds = [seed for state in (first, second) for seed in seeds_of(state).values()]
    assert len({tuple(seed) for seed in seeds}) == len(seeds) == 2 * 2
    changed = {
        name: array + np.array([7, 3]) if "seed_generator" in name else array
        for name, array in first.save().items()
    }
    second.restore(changed)
    for name, seed in seeds_of(second).items():
        from_first = seed - changed[name]
        assert from_first[0] != 0
        assert from_first[1] == 0, "as many draws"


def seeds_of(state: State) -> dict[str, np.ndarray]:
    return {name: array for name, array in state.save().items() if "seed_generator" in name}


def averaging_model() -> keras.Model:
    """Makes a model with averages, a frozen layer, and one output."""
    numbers = keras.Input((1,))
    x = keras.layers.BatchNormalization(name="norm")(numbers)
    x = keras.layers.Dense(2, trainable=False, name="frozen")(x)
    return keras.Model(numbers, keras.layers.Dense(1, name="head")(x))


def named(state: State) -> Mapping[str, np.ndarray]:
    return state.by_name(state.trainable)


@pytest.mark.parametrize(
    ("optimizer", "packed"), [("adam", True), ("muon", False), ("lamb", False)]
)
def test_small_weights_are_updated_together_where_that_is_the_same(
    optimizer: str, packed: bool
) -> None:
    state = state_of(averaging_model(), optimizer=optimizer)
    assert set(named(state)) == {"norm/gamma", "norm/beta", "head/kernel", "head/bias"}
    assert len(state.trainable) == (1 if packed else 4)


def test_two_variables_of_one_name_are_refused() -> None:
    class Twice(keras.layers.Layer):
        def build(self, _: Any) -> None:
            self.first = self.add_weight(shape=(1,), name="same")
            self.second = self.add_weight(shape=(1,), name="same")

        def call(self, inputs: Any) -> Any:
            return inputs * self.first * self.second

    inputs = keras.Input((1,))
    with pytest.raises(ValueError, match=r"two variables .* the path 'twice/same'"):
        variables_by_name(keras.Model(inputs, Twice(name="twice")(inputs)))
