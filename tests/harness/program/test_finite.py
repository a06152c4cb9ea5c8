"""The test of all gradients by one kernel, as on a GPU: right for every element."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla as tf_xla
from tensorflow.compiler.xla import xla_data_pb2

from harness.program import finite
from harness.program.finite import all_finite, all_finite_by_one_kernel
from harness.program.packing import Stored

NOT_FINITE = (np.nan, np.inf, -np.inf)


def test_of_nothing_all_is_finite() -> None:
    assert all_finite_by_one_kernel([])
    assert all_finite_by_one_kernel([tf.zeros([0, 3])])


@pytest.mark.parametrize("size", [1, 30, 31 * 2**14 + 1, 8 * 31 * 2**14 + 1])
def test_any_element_of_any_size(size: int) -> None:
    """The sizes go from a part of one element to more than XLA leaves whole."""

    @tf.function(jit_compile=True, autograph=False)
    def asked(values: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        return all_finite_by_one_kernel([tf.cast(values, tf.float32), other])

    values, other = np.zeros(size, np.float16), tf.zeros([2, 3])
    assert asked(tf.constant(values), other)
    for place, wrong in zip((0, size // 2, size - 1), NOT_FINITE, strict=True):
        values[place] = wrong
        assert not asked(tf.constant(values), other)
        values[place] = 0
    assert not asked(tf.constant(values), other / 0)


NUMBERS = xla_data_pb2.DotDimensionNumbers(
    lhs_batch_dimensions=[0],
    rhs_batch_dimensions=[0],
    lhs_contracting_dimensions=[1],
    rhs_contracting_dimensions=[1],
)


def product(rows: tf.Tensor) -> tf.Tensor:
    """Returns a gradient as `by_fewer_kernels` computes it, float32 [2, 2]."""
    parts = tf.reshape(rows, [2, 4, 2])
    products = tf_xla.dot_general(parts, parts, NUMBERS, preferred_element_type=tf.float32)
    return tf.reduce_sum(products, axis=0)


def stack(x: tf.Tensor) -> tf.Tensor:
    """Returns a stack of gradients as `State` joins it."""
    return stacked().join({"a": product(x), "b": product(x / 2)})


@functools.cache
def stacked() -> Stored:
    with tf.init_scope():
        return Stored(tf.Variable(np.zeros([2, 2, 2])), {"a": (2, 2), "b": (2, 2)})


def wide(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32)


def overlapping(x: tf.Tensor) -> tf.Tensor:
    """Returns a gradient of two overlapping slices, whose sum is 1.5 times each element."""
    return tf.add_n([tf.pad(x, [[0, 2], [0, 0]]), tf.pad(x / 2, [[0, 2], [0, 0]])])


@pytest.mark.parametrize(
    ("made", "limit"),
    [
        (lambda x: tf.reshape(wide(x), [-1])[None], np.inf),
        (lambda x: tf.concat([tf.zeros([2]), tf.reshape(wide(x), [-1])], axis=0), np.inf),
        (lambda x: wide(x)[4:], np.inf),
        (lambda x: wide(tf.cast(wide(x) * 2, tf.float16)), 2.0**15),
        (overlapping, 2.0**15),
        (product, np.inf),
        (lambda x: tf.reduce_sum(tf.stack([x, x / 2]), axis=0), 2.0**15),
        (stack, np.inf),
    ],
    ids=["reshaped", "joined", "cut", "narrowed", "overlapping", "product", "sum", "stack"],
)
def test_the_same_answer_whatever_a_gradient_is_made_of(
    made: Callable[[tf.Tensor], tf.Tensor], limit: float
) -> None:
    """A tensor may be tested before a sum or a conversion that cannot overflow."""

    @tf.function(jit_compile=True, autograph=False)
    def asked(x: tf.Tensor) -> list[tf.Tensor]:
        tensors = [made(x)]
        return [all_finite(tensors), all_finite_by_one_kernel(tensors)]

    for place in np.ndindex(8, 2):
        for value in (*NOT_FINITE, 49152.0, -49152.0):
            x = np.ones((8, 2), np.float16)
            x[place] = value
            each, at_once = asked(tf.constant(x))
            assert each == at_once, (place, value)
            if place == (7, 1):
                assert bool(each) is (abs(value) < limit)


@pytest.mark.parametrize("shape", [(), (5,), (3, 2), (11, 2)])
def test_a_variable_is_changed_by_blocks(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "_ROWS_AT_ONCE", 4)
    before = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    variable = tf.Variable(before)
    sizes: list[int] = []

    def twice(block: tf.Tensor) -> tf.Tensor:
        sizes.extend(block.shape[:1])
        return 2 * block

    finite.change_by_blocks(variable, twice)
    np.testing.assert_array_equal(variable.numpy(), 2 * before)
    reads = [tf.convert_to_tensor(variable) for _ in range(2)]
    assert np.shares_memory(*map(np.asarray, reads)), "a read copies the variable"
    assert sizes == {(): [], (5,): [5], (3, 2): [3], (11, 2): [4, 4, 3]}[shape]
