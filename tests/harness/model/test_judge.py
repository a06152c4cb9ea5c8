"""Judging texts: what a model knows of them, its probabilities, and the words that decided."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.data.vocabulary import Vocabulary
from harness.model.judge import Judge
from harness.model.layers import MultiHotDense
from tests.harness.model.test_layers import randomize, symbolic_inputs

IDS = {"good": 3, "bad": 4, "film": 5}
TEXT, WORDS = "good good bad new", [(3, "good"), (4, "bad")]


def judge(units: int, head: Any, **changes: Any) -> tuple[Judge, np.ndarray]:
    """Returns a judge by a linear model, and the model's table."""
    inputs = symbolic_inputs()
    model = keras.Model(inputs, MultiHotDense(units, 6, use_bias=False)(inputs))
    randomize(model)
    given: dict[str, Any] = {"start_id": 1, "unknown_id": 2} | changes
    return Judge(model, Vocabulary(ids=IDS, num_tokens=6, **given), head), model.get_weights()[0]


@pytest.mark.parametrize(("units", "head"), [(1, "sigmoid"), (3, "sigmoid"), (3, "softmax")])
def test_a_word_weighs_what_the_log_odds_fall_without_it(units: int, head: str) -> None:
    own, table = judge(units, head)
    (ids,) = own.encode([TEXT])
    found = own.probabilities(own.encode([TEXT]))
    for other in (
        own,
        judge(1, "sigmoid", start_id=None)[0],
        judge(1, "sigmoid", unknown_id=None)[0],
    ):
        assert other.known(TEXT, other.encode([TEXT]).row(0)) == (3, 4)
    whole = table[[1, 2, 3, 4]].sum(axis=0)

    def log_odds(logits: np.ndarray) -> np.ndarray:
        if units == 1:
            return np.array([-logits[0], logits[0]])
        p = tf.nn.softmax(logits).numpy() if head == "softmax" else tf.sigmoid(logits).numpy()
        return np.log(p / (1 - p))

    np.testing.assert_allclose(np.log(found[0] / (1 - found[0])), log_odds(whole), rtol=1e-3)
    for number, before in enumerate(log_odds(whole)):
        weights = [(w, before - log_odds(whole - table[token])[number]) for token, w in WORDS]
        weights.sort(key=lambda pair: -abs(pair[1]))
        explained = own.explain(TEXT, ids, number, most=2)
        assert [word for word, _ in explained] == [word for word, _ in weights]
        np.testing.assert_allclose(
            [w for _, w in explained], [w for _, w in weights], rtol=1e-3, atol=1e-4
        )
        assert own.explain(TEXT, ids, number, most=1) == explained[:1]
