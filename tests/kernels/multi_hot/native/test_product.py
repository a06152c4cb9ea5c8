import secrets

import numpy as np
import pytest
import tensorflow as tf

from kernels.multi_hot import multi_hot_dense
from kernels.multi_hot.native.build import find_compiler
from tests.kernels.multi_hot.contract import MultiHotContract

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")


@needs_compiler
class TestNative(MultiHotContract):
    implementation = "native"


@needs_compiler
@pytest.mark.parametrize("unique", [True, False])
def test_more_rows_than_the_index_counts_in_a_chunk(unique: bool) -> None:
    # One id a row and few ids: a single chunk would be chosen, whose rows are counted in 16 bits.
    num_rows, num_tokens = 2 * 2**16 + 1, 200_000
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    values = rng.integers(num_tokens, size=num_rows, dtype=np.int32)
    splits = np.arange(num_rows + 1, dtype=np.int32)
    dy = rng.integers(-8, 8, size=(num_rows, 1)).astype(np.float32)
    table = tf.zeros([num_tokens, 1])
    with tf.GradientTape() as tape:
        tape.watch(table)
        y = multi_hot_dense(table, values, splits, implementation="native", unique=unique)
    gradient = tape.gradient(y, table, output_gradients=tf.constant(dy))
    expected = np.zeros((num_tokens, 1))
    np.add.at(expected, values, dy)
    np.testing.assert_array_equal(gradient, expected)  # whole numbers: exact in float32
