"""The state by name, on one device and on two, and the changes of a step."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.data.ragged import RaggedSets
from harness.model import variables
from harness.model.optimizers import optimizer_factory
from harness.model.variables import variables_by_name
from harness.program.devices import Devices, set_up_devices
from harness.program.state import State
from harness.program.strategy import copies_of
from tests.harness.program.rig import build_rig, on_cpus
from tests.harness.program.test_optimizer import OFFERED
from tests.harness.random_sets import random_sets


@pytest.fixture(scope="module")
def sets() -> RaggedSets:
    return random_sets(np.random.default_rng(), rows=16)


def state_of(
    model: keras.Model, *, devices: Devices | None = None, optimizer: str = "adam"
) -> State:
    return State(model, optimizer_factory(optimizer)(), devices or set_up_devices(1))


def test_a_scaled_loss_leaves_int32_alone(sets: RaggedSets) -> None:
    """Adafactor has such variables, which a program of a GPU could not reach."""
    rig = build_rig(sets, optimizer="adafactor", precision="mixed_float16")
    dispatch, batches = next(rig.dispatches())
    call = dispatch.calls[0]
    (batch,) = batches[call.rows]
    traced = rig.training.traced_on(0, call, batch)
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


def test_a_model_has_the_values_of_its_training(sets: RaggedSets) -> None:
    rig = build_rig(sets, hidden_units=(6, 4), dropout=0.2, steps_per_call=4, batch_size=4)
    rig.randomize(np.random.default_rng())
    rig.train(num_calls=1)
    values = variables_by_name(rig.model)
    trained = {n.removeprefix("model/"): v for n, v in rig.state.save().items()}
    for name, variable in values.items():
        np.testing.assert_array_equal(variable.numpy(), trained[name])
    assert [v.numpy()[1] for n, v in values.items() if "seed" in n] == [4, 4], "draws so far"


def test_a_model_may_be_given_other_values(sets: RaggedSets) -> None:
    """A callback may set weights and the learning rate, of which each device has a copy."""
    rig = build_rig(sets, hidden_units=(6, 4), dropout=0.2)
    state = state_of(rig.model, devices=on_cpus(2))
    for variable in rig.model.trainable_variables:
        variable.assign(variable.numpy() + 1)
    state.optimizer.learning_rate.assign(0.25)
    state.read_model()
    for variable in rig.model.trainable_variables:
        for copy in copies_of(state.weights[variable.path]):
            np.testing.assert_array_equal(copy.numpy(), variable.numpy())
    rates = copies_of(state.named["optimizer/learning_rate"])
    assert [float(rate) for rate in rates] == [0.25, 0.25]


def test_replicas_have_seeds_of_their_own_that_follow_from_the_first(sets: RaggedSets) -> None:
    rig = build_rig(sets, hidden_units=(6, 4), dropout=0.2)
    state = state_of(rig.model, devices=on_cpus(2))

    def seeds() -> list[list[np.ndarray]]:
        found = [copies_of(v) for name, v in state.others.items() if "seed_generator" in name]
        return [[copy.numpy() for copy in copies] for copies in found]

    assert len({tuple(seed) for copies in seeds() for seed in copies}) == 2 * 2
    changed = {
        name: array + np.array([7, 3]) if "seed_generator" in name else array
        for name, array in state.save().items()
    }
    state.restore(changed)
    expected = [array for name, array in changed.items() if "seed_generator" in name]
    for (first, second), wanted in zip(seeds(), expected, strict=True):
        np.testing.assert_array_equal(first, wanted)
        away, draws = second - first
        assert away != 0
        assert draws == 0, "as many draws"


def averaging_model() -> keras.Model:
    """Makes a model with averages, a frozen layer, and one output."""
    numbers = keras.Input((1,))
    x = keras.layers.BatchNormalization(name="norm")(numbers)
    x = keras.layers.Dense(2, trainable=False, name="frozen")(x)
    return keras.Model(numbers, keras.layers.Dense(1, name="head")(x))


@pytest.mark.parametrize("shape", [(), (5,), (3, 2), (11, 2)])
def test_a_variable_is_changed_by_blocks(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variables, "_ROWS_AT_ONCE", 4)
    before = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    variable = tf.Variable(before)
    sizes: list[int] = []

    def twice(block: tf.Tensor) -> tf.Tensor:
        sizes.extend(block.shape[:1])
        return 2 * block

    variables.change_by_blocks(variable, twice)
    np.testing.assert_array_equal(variable.numpy(), 2 * before)
    reads = [tf.convert_to_tensor(variable) for _ in range(2)]
    assert np.shares_memory(*map(np.asarray, reads)), "a read copies the variable"
    assert sizes == {(): [], (5,): [5], (3, 2): [3], (11, 2): [4, 4, 3]}[shape]


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
