import resource
import secrets
import sys

import numpy as np
import psutil
import pytest
import tensorflow as tf

from kernels.multi_hot import multi_hot_dense
from kernels.multi_hot.native.product import trial_sums
from tests.kernels.multi_hot.checks import needs_compiler
from tests.kernels.multi_hot.contract import MultiHotContract


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


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="others do not enforce RLIMIT_AS")
def test_out_of_memory_is_an_error() -> None:
    """The stamps of the tokens, 256 MB for each thread, are refused; the process lives on."""
    num_tokens = 2**26
    table = tf.zeros([num_tokens, 1])
    splits = np.arange(65, dtype=np.int32)

    @tf.function(jit_compile=True)
    def product(values: tf.Tensor) -> tf.Tensor:
        return multi_hot_dense(table, values, splits, implementation="native")

    with pytest.raises(tf.errors.InvalidArgumentError):
        product(tf.fill([64], num_tokens))  # compiles, and needs no stamps
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**27, hard))
    try:
        with pytest.raises(tf.errors.ResourceExhaustedError, match="out of host memory"):
            product(tf.range(64))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    got = multi_hot_dense([[1.0], [2.0]], [0, 1], [0, 2], implementation="native")
    assert got.numpy().tolist() == [[3.0]]


@needs_compiler
def test_two_rows_are_tried_before_a_device_is_used() -> None:
    assert trial_sums("/CPU:0") == [[20, 22], [0, 0]]
