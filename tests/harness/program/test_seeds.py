"""Seeds in one variable."""

import contextlib
import functools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.program.seeds import Seeds


def numbered(value: int) -> keras.Variable:
    return keras.random.SeedGenerator(value).state


def test_what_a_call_adds_is_added_at_once_and_anything_else_is_put_together() -> None:
    seeds = Seeds({"a": numbered(7), "b": numbered(8), "c": numbered(9)})

    @tf.function(jit_compile=True, autograph=False)
    def called(*, twisted: bool) -> dict[str, tf.Tensor]:
        before = seeds.values()
        step = tf.constant([0, 1], tf.int64)
        after = {**before, "a": before["a"] + step + step, "c": before["c"] + step}
        if twisted:  # as Keras does for draws whose order does not matter
            after["c"] = before["c"] * 3
        changes = {name: after[name] for name in "ac"} | {"other": tf.constant(1.0)}
        return seeds.together(changes, before, after)

    for twisted, last in ((False, [9, 1]), (True, [27, 0])):
        found = called(twisted=twisted)
        assert found.keys() == {"other", Seeds.NAME}
        assert found[Seeds.NAME].numpy().tolist() == [7, 2, 8, 0, *last]


@pytest.mark.parametrize("draws", [(1, 1), (1, 0), (2, 1), (0, 0), "twisted"])
@pytest.mark.parametrize("in_loop", [False, True])
def test_a_loop_draws_as_its_steps_one_by_one(draws: Any, in_loop: bool) -> None:
    """This holds whether layers draw once, as the loop expects, or otherwise."""
    seeds = Seeds({"a": numbered(7), "b": numbered(8)})
    (held,) = seeds.stored
    num_steps = 3

    @tf.function(jit_compile=True, autograph=False)
    def drawn() -> tf.Tensor:
        def step(number: tf.Tensor, drawn: tf.TensorArray) -> Any:
            seeds.step = number
            before = seeds.values()
            if draws == "twisted":
                after = {**before, "b": before["b"] * 3 + 1}
            else:
                after = {
                    name: functools.reduce(tf.add, [[0, 1]] * count, before[name])
                    for (name, count) in zip("ab", draws, strict=True)
                }
            changes = {name: after[name] for name in "ab" if after[name] is not before[name]}
            for value in seeds.together(changes, before, after).values():
                held.variable.assign(value)
            return number + 1, drawn.write(number, tf.stack(list(before.values())))

        array = tf.TensorArray(tf.int64, num_steps, element_shape=[2, 2])
        with seeds.in_loop(num_steps) if in_loop else contextlib.nullcontext():
            _, array = tf.while_loop(lambda n, _: n < num_steps, step, (tf.constant(0), array))
        return array.stack()

    expected = np.array([[7, 0], [8, 0]])
    for _ in range(2):  # calls of the program
        for found in drawn().numpy():
            np.testing.assert_array_equal(found, expected)
            if draws == "twisted":
                expected = np.stack([expected[0], expected[1] * 3 + 1])
            else:
                expected[:, 1] += draws
        np.testing.assert_array_equal(held.variable.numpy().reshape(2, 2), expected)


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(count: int) -> None:
    seeds = Seeds({"a": numbered(7)} if count else {})
    seeds.move(2)
    assert {n: v.numpy()[1] for n, v in seeds.values().items()} == ({"a": 0} if count else {})
    values = seeds.values()
    assert seeds.together({"x": 1.0}, values, values) == {"x": 1.0}
