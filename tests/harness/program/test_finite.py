"""The test of all gradients by one kernel, as on a GPU: right for every element."""

import numpy as np
import pytest
import tensorflow as tf

from harness.program import finite
from harness.program.finite import all_finite_by_one_kernel

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
