"""Naive Bayes against scikit-learn's."""

import numpy as np
import pytest
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.task.measures import Quality
from harness.task.naive_bayes import naive_bayes


@pytest.mark.parametrize("kind", ["binary", "multi_class", "multi_label"])
@pytest.mark.parametrize("seed", range(3))
def test_answers_are_those_of_scikit_learn(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_rows, num_tokens, num_classes = 400, 60, 2 if kind == "binary" else 5
    multi_hot = rng.random([num_rows, num_tokens]) < 0.1
    evidence = multi_hot @ rng.normal(size=[num_tokens, num_classes])
    labels = evidence.argmax(axis=1)
    if kind == "multi_label":
        labels = (evidence > 0.7).astype(np.int64)

    def examples(part: slice) -> Examples:
        sets = RaggedSets.from_lists([row.nonzero()[0] for row in multi_hot[part]], num_tokens=60)
        return Examples(inputs={"": sets}, labels=labels[part], num_classes=num_classes)

    train, held_out = examples(slice(300)), examples(slice(300, None))
    found = naive_bayes(train, held_out, Quality(held_out, kind=kind, num_classes=num_classes))
    assert found is not None
    known = OneVsRestClassifier(MultinomialNB()).fit(multi_hot[:300], labels[:300])
    answers = known.predict(multi_hot[300:])
    predicted = answers.sum(axis=0) if kind == "multi_label" else np.bincount(answers)
    # The priors are smoothed as well, so that a row on the border may be on the other side.
    assert np.abs(found.predicted - predicted).sum() <= 4
    assert abs(found.accuracy - np.mean(answers == labels[300:])) <= 0.02


def test_rows_may_have_ids_that_no_train_row_may_have() -> None:
    labels = np.array([0, 1])
    train = Examples(inputs={"": RaggedSets.from_lists([[0], [1]], num_tokens=2)}, labels=labels)
    rows = Examples(inputs={"": RaggedSets.from_lists([[0, 3], [1]], num_tokens=4)}, labels=labels)
    for one, other in ((train, rows), (rows, train)):
        found = naive_bayes(one, other, Quality(other, kind="binary", num_classes=2))
        assert found is not None
        assert found.accuracy == 1


def test_the_commoner_class_decides_of_a_row_without_ids() -> None:
    train, row = (RaggedSets.from_lists(rows, num_tokens=2) for rows in ([[0], [1], [1]], [[]]))
    empty = Examples(inputs={"": row}, labels=np.array([1]))
    known = Examples(inputs={"": train}, labels=np.array([0, 1, 1]))
    found = naive_bayes(known, empty, Quality(empty, kind="binary", num_classes=2))
    assert found is not None
    assert found.accuracy == 1


def test_rows_without_ids_or_with_too_many_classes_are_left() -> None:
    numbers = Examples(inputs={"x": np.ones([4, 2])}, labels=np.array([0, 1, 0, 1]))
    assert naive_bayes(numbers, numbers, Quality(numbers, kind="binary", num_classes=2)) is None
    rows = RaggedSets.from_lists([[0], [1]], num_tokens=2**20)
    many = Examples(inputs={"": rows}, labels=np.array([0, 40]), num_classes=41)
    assert naive_bayes(many, many, Quality(many, kind="multi_class", num_classes=41)) is None
