"""Large tables have the numbers that Keras draws."""

from typing import Any

import keras
import numpy as np
import pytest

import harness

OF = keras.initializers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_float16"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (OF.GlorotUniform, {"seed": 5}),
        (OF.HeNormal, {"seed": -1}),
        (OF.VarianceScaling, {"mode": "fan_out", "distribution": "untruncated_normal", "seed": 1}),
        (OF.RandomUniform, {"seed": 2**32}),
        (OF.Constant, {"value": 0.5}),
    ],
)
def test_a_large_table_has_the_numbers_of_keras(
    kind: type, options: dict[str, Any], dtype: str
) -> None:
    ours = harness.MultiHotDense(53, 20_001, kernel_initializer=kind(**options), dtype=dtype)
    theirs = keras.layers.Dense(53, kernel_initializer=kind(**options), dtype=dtype)
    for layer in (ours, theirs):
        layer.build((None, 20_001))
    np.testing.assert_array_equal(ours.kernel.numpy(), theirs.kernel.numpy())
    again = harness.MultiHotDense.from_config(ours.get_config()).kernel_initializer
    assert again.get_config() == kind(**options).get_config()


def test_a_seed_that_the_user_holds_moves_on_as_in_keras() -> None:
    seed = keras.random.SeedGenerator(7)
    layer = harness.MultiHotDense(53, 20_001, kernel_initializer=OF.RandomNormal(seed=seed))
    layer.build(None)
    expected = OF.RandomNormal(seed=keras.random.SeedGenerator(7))((20_001, 53))
    np.testing.assert_array_equal(layer.kernel.numpy(), expected)
    assert seed.state.numpy().tolist() == [7, 1]
