"""Seeds in one variable."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.engine.seeds import Seeds


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


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(count: int) -> None:
    seeds = Seeds({"a": numbered(7)} if count else {})
    seeds.spread({"a": np.array([5, 3])}, share=2)
    assert {n: v.numpy()[1] for n, v in seeds.values().items()} == ({"a": 3} if count else {})
    assert seeds.together({"x": 1.0}, {}, {}) == {"x": 1.0}
