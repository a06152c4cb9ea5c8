"""Words' weights against the gradient by the multi-hot matrix itself, and the choice of words."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.data.vocabulary import Vocabulary
from harness.model.layers import MultiHotDense
from harness.tools.report.words import speaking_words, word_weights
from tests.harness.random_sets import random_sets


@pytest.mark.parametrize(("num_outputs", "weighted"), [(1, True), (3, False)])
def test_gradient_times_input(num_outputs: int, weighted: bool) -> None:
    rows = random_sets(
        np.random.default_rng(), rows=1_100, num_classes=max(2, num_outputs), weighted=weighted
    )
    dtypes = {"values": "int32", "row_splits": "int32"} | (
        {"weights": "float32"} if weighted else {}
    )
    inputs = {name: keras.Input([], dtype=dtype, name=name) for name, dtype in dtypes.items()}
    first = MultiHotDense(6, rows.num_tokens, activation="tanh")
    last = keras.layers.Dense(num_outputs)
    model = keras.Model(inputs, last(first(inputs)))
    classes = range(max(2, num_outputs))
    kind = "binary" if num_outputs == 1 else "multi_class"
    truth = rows.labels[:, None] == np.array(classes)
    found = word_weights(model, rows, kind, classes, truth)
    matrix = np.zeros([rows.num_rows, rows.num_tokens], np.float32)
    sets = rows.with_weights()
    places = np.repeat(np.arange(sets.num_rows), sets.lengths), sets.values
    np.add.at(matrix, places, sets.weights)
    x = tf.constant(matrix)
    for number in classes:
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = last(tf.tanh(x @ first.kernel.value + first.bias.value))
            if num_outputs == 1:
                own = logits[:, 0] if number else -logits[:, 0]
            else:
                own = logits[:, number] - tf.reduce_mean(logits, axis=1)
        each, own_rows = tape.gradient(own, x).numpy() * matrix, truth[:, number]
        expected = each[own_rows].mean(axis=0) - each[~own_rows].mean(axis=0)
        np.testing.assert_allclose(found[number], expected, atol=1e-6)
    if weighted:  # rows without weights are given those of 1, as to fit and evaluate
        bare = rows.derived(weights=None)
        plain, ones = (
            word_weights(model, one, kind, classes, truth) for one in (bare, bare.with_weights())
        )
        np.testing.assert_array_equal(plain, ones)


def test_words_speak_for_the_class_that_has_them() -> None:
    texts = [[0, 4, 1], [0, 4, 1], [0, 4, 3], [0, 4, 2]]  # the start, "the", and a word
    rows = harness.RaggedSets.from_lists(texts, num_tokens=6)
    truth = np.array([[True], [True], [False], [False]])
    weights = np.array([[9.0, 1.0, -1.0, 3.0, 8.0, 2.0]])
    words = Vocabulary(ids={"#": 1, "good": 2, "bad": 3, "the": 4}, start_id=0, num_tokens=6)
    ((word,),) = speaking_words(weights, rows, truth, words, most=5)
    assert word == ("#", pytest.approx(np.log(4)), 2, 0)
    assert speaking_words(weights, rows, truth, None, most=2)[0][0][0] == "id 1"


@pytest.mark.parametrize("is_of_class", [False, True])
def test_no_word_speaks_for_a_class_of_no_row_or_of_all(is_of_class: bool) -> None:
    """A rare class may have no test row, and a label all of them."""
    rows = harness.RaggedSets(values=np.arange(4), row_splits=np.array([0, 2, 4]), num_tokens=4)
    truth = np.full([2, 1], is_of_class)
    assert speaking_words(np.ones([1, 4]), rows, truth, None, most=5) == [[]]
