"""Tables drawn in blocks have Keras's numbers."""

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import harness
from harness.model.initial_values import in_blocks

UNIFORM = (
    keras.initializers.GlorotUniform,
    keras.initializers.HeUniform,
    keras.initializers.LecunUniform,
    lambda seed: keras.initializers.VarianceScaling(
        scale=0.3, mode="fan_out", distribution="uniform", seed=seed
    ),
)


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(UNIFORM),
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 300),
    columns=st.integers(1, 60),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    block_numbers=st.integers(1, 2000),
)
def test_numbers_are_those_of_keras(
    kind: type, seed: int, rows: int, columns: int, dtype: str, block_numbers: int
) -> None:
    initializer = kind(seed=seed)
    drawn = in_blocks(initializer, block_numbers=block_numbers)((rows, columns), dtype)
    expected = initializer((rows, columns), dtype)
    assert drawn.dtype == expected.dtype
    np.testing.assert_array_equal(drawn.numpy(), expected.numpy())


def test_a_large_table_is_drawn_as_keras_draws_it() -> None:
    layer = harness.MultiHotDense(
        70, 20_001, kernel_initializer=keras.initializers.GlorotUniform(seed=5)
    )
    layer.build(None)
    expected = keras.initializers.GlorotUniform(seed=5)((20_001, 70))
    np.testing.assert_array_equal(layer.kernel.numpy(), expected.numpy())
    assert harness.MultiHotDense.from_config(layer.get_config()).kernel_initializer.seed == 5
