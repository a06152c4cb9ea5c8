"""The rule of loss scaling; test_two_devices.py tests it in a step of two devices."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.model.layers import MultiHotDense, TableDtype
from harness.model.network import DefaultNetwork
from harness.program.devices import Devices
from harness.program.exchange import Gradients
from harness.program.optimizer import LossScale, all_finite, unscaled
from kernels.multi_hot.table_rules import Rule
from tests.harness.program.rig import build_rig
from tests.harness.random_sets import random_sets

FINITE = [1.0, -2.0]


def scaled(scale: LossScale, *gradients: list[float]) -> list[float]:
    """Adapts the scale to gradients; returns the first one without the scale."""

    @tf.function(jit_compile=True, autograph=False)
    def step() -> tf.Tensor:
        weights = {str(place): tf.constant(own) for place, own in enumerate(gradients)}
        found = unscaled(Gradients(weights, {}, {}, {}), tf.convert_to_tensor(scale.scale))
        scale.update(all_finite([*weights.values()], by_one_kernel=False))
        return found.weights["0"]

    return [float(number) for number in step()]


def test_a_finite_step_keeps_the_scale() -> None:
    scale = LossScale()
    assert scaled(scale, FINITE, FINITE) == [number / 2.0**15 for number in FINITE]
    assert (float(scale.scale), int(scale.finite_steps)) == (2.0**15, 1)
    assert int(scale.skipped_steps) == 0


@pytest.mark.parametrize(("wrong", "place"), [("nan", 0), ("inf", 1), ("-inf", 1)])
def test_any_gradient_that_is_not_finite_skips_and_halves(wrong: str, place: int) -> None:
    scale = LossScale()
    scale.finite_steps.assign(7)
    gradients = [FINITE, FINITE]
    gradients[place] = [0.0, float(wrong)]
    scaled(scale, *gradients)
    assert (float(scale.scale), int(scale.finite_steps)) == (2.0**14, 0)
    assert int(scale.skipped_steps) == 1


def test_doubles_after_2000_finite_steps_in_a_row() -> None:
    scale = LossScale()

    @tf.function(jit_compile=True)
    def many(steps: tf.Tensor) -> tf.Tensor:
        def body(step: tf.Tensor) -> tf.Tensor:
            scale.update(tf.constant(True))
            return step + 1

        return tf.while_loop(lambda step: step < steps, lambda step: [body(step)], [0])

    many(tf.constant(1999))
    assert (float(scale.scale), int(scale.finite_steps)) == (2.0**15, 1999)
    many(tf.constant(1))
    assert (float(scale.scale), int(scale.finite_steps)) == (2.0**16, 0)
    many(tf.constant(2000))
    assert (float(scale.scale), int(scale.finite_steps)) == (2.0**17, 0)


def test_never_falls_below_1() -> None:
    scale = LossScale()
    scale.scale.assign(1.5)
    for _ in range(2):
        scaled(scale, [float("nan")])
        assert float(scale.scale) == 1.0


@pytest.mark.parametrize(
    ("kind", "settings", "table_dtype"),
    [
        ("CPU", {}, "bfloat16"),
        ("GPU", {"gradient_accumulation_steps": 2}, "float32"),
    ],
)
def test_the_optimizer_knows_nothing_of_skipped_steps(
    kind: str, settings: dict[str, Any], table_dtype: TableDtype
) -> None:
    """This also holds for a GPU's program, of which only the structure is tested: a CPU runs it."""
    devices = Devices(
        names=("/CPU:0",), num_replicas=1, device_type=kind, descriptions=("",), memory_bytes=2**30
    )
    sets = random_sets(np.random.default_rng(3), rows=32)
    rig = build_rig(
        sets,
        devices=devices,
        precision="mixed_float16",
        model=DefaultNetwork(
            hidden_units=(40, 40),
            dropout=(0.0, 0.0),
            table_dtype=table_dtype,
            num_tokens=sets.num_tokens,
            num_classes=2,
        ),
        optimizer=keras.optimizers.Adam(**settings),
    )
    ((dispatch, batches),) = rig.dispatches()
    (call,) = dispatch.calls
    state = rig.state
    assert state.loss_scale is not None
    start = rig.values()
    sums = rig.run(call, batches)
    after = {name: value for name, value in state.save().items() if "loss_scale" not in name}
    assert after["optimizer/iteration"] == 4
    rig.set_values(start)
    state.loss_scale.scale.assign(2.0**120)
    rig.run(call, batches)
    assert int(state.loss_scale.skipped_steps) == 4
    state.loss_scale.scale.assign(2.0**15)
    np.testing.assert_array_equal(rig.run(call, batches), sums)
    for name, value in after.items():
        np.testing.assert_array_equal(state.save()[name], value, err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_model_of_a_table_alone_counts_its_steps(precision: str) -> None:
    """Keras itself counts no step if there is no dense gradient to apply."""
    sets = random_sets(np.random.default_rng(3), rows=32)

    def table(inputs: Any) -> Any:
        return MultiHotDense(1, sets.num_tokens, use_bias=False, dtype=precision)(inputs)

    rig = build_rig(
        sets, model=table, precision=precision, rule=Rule("lazy_adam"), optimizer="adam"
    )
    ((dispatch, batches),) = rig.dispatches()
    (call,) = dispatch.calls
    state = rig.state
    rig.run(call, batches)
    assert state.save()["optimizer/iteration"] == 4
    if state.loss_scale is not None:
        state.loss_scale.scale.assign(2.0**120)
        rig.run(call, batches)
        assert int(state.loss_scale.skipped_steps) == 4
        assert state.save()["optimizer/iteration"] == 4
    assert all(np.isfinite(value).all() for value in state.save().values())


def test_of_nothing_all_is_finite() -> None:
    assert all_finite([], by_one_kernel=True)
    assert all_finite([tf.zeros([0, 3])], by_one_kernel=True)


@pytest.mark.parametrize("size", [1, 30, 31 * 2**14 + 1, 8 * 31 * 2**14 + 1])
def test_any_element_of_any_size_is_tested(size: int) -> None:
    """The sizes go from a part of one element to more than XLA leaves whole."""

    @tf.function(jit_compile=True, autograph=False)
    def asked(values: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        return all_finite([tf.cast(values, tf.float32), other], by_one_kernel=True)

    values, other = np.zeros(size, np.float16), tf.zeros([2, 3])
    assert asked(tf.constant(values), other)
    for place, wrong in zip((0, size // 2, size - 1), (np.nan, np.inf, -np.inf), strict=True):
        values[place] = wrong
        assert not asked(tf.constant(values), other)
        values[place] = 0
    assert not asked(tf.constant(values), other / 0)
