"""Measures against scikit-learn, and what it does not have."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from sklearn import metrics

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.task import measures
from harness.task.measures import Quality, best_thresholds

KINDS = ("binary", "multi_class", "multi_label")


def case(kind: str, num_rows: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws labels with some rare classes, and probabilities of which many are equal."""
    rng = np.random.RandomState(seed)  # its streams never change (NEP 19)
    if kind == "binary":
        return rng.randint(0, 2, num_rows), rng.randint(0, 9, [num_rows, 1]).astype("f4") / 8
    probabilities = rng.randint(0, 9, [num_rows, num_classes]).astype("f4") / 8
    if kind == "multi_label":
        return (rng.random_sample([num_rows, num_classes]) < 0.2).astype(np.int64), probabilities
    probabilities += np.float32(0.01)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return rng.randint(0, max(2, num_classes - 1), num_rows), probabilities


def ranked(kind: str, labels: Any, probabilities: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns a case for ROC-AUC, for which scikit-learn needs every class among the labels."""
    if kind != "multi_class":
        return labels, probabilities
    return np.append(labels, 6), np.concatenate([probabilities, probabilities[:1]])


def examples(labels: Any) -> Examples:
    num_rows = labels.num_rows if isinstance(labels, RaggedSets) else len(labels)
    splits = np.zeros(num_rows + 1, np.int64)
    rows = RaggedSets(values=np.zeros(0, np.int32), row_splits=splits, num_tokens=1)
    return Examples(inputs={"": rows}, labels=labels)


def quality(kind: str, labels: Any, probabilities: np.ndarray) -> Quality:
    found = Quality(examples(labels), kind=kind, num_classes=max(2, probabilities.shape[1]))
    found.add(probabilities)
    return found


def values_of_scikit_learn(kind: str, labels: Any, probabilities: np.ndarray) -> dict[str, Any]:
    taken = probabilities > 0.5
    every = range(2 if kind == "binary" else 7)
    found: dict[str, Any] = {}
    if kind == "multi_label":
        found["accuracy"] = 1 - metrics.hamming_loss(labels, taken)
    else:
        taken = taken[:, 0] if kind == "binary" else probabilities.argmax(axis=1)
        found["accuracy"] = metrics.accuracy_score(labels, taken)
        found["confusion"] = metrics.confusion_matrix(labels, taken, labels=every)
    for name in ("precision", "recall", "f1"):
        score = getattr(metrics, f"{name}_score")
        found[name] = score(labels, taken, average=None, labels=every, zero_division=0)
        found[f"{name}_macro"] = score(labels, taken, average="macro", zero_division=0)
    found["f1_micro"] = metrics.f1_score(labels, taken, average="micro", zero_division=0)
    labels, scores = ranked(kind, labels, probabilities)
    scores = scores[:, 0] if kind == "binary" else scores
    found["roc_auc"] = metrics.roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_scikit_learn_agrees(kind: str) -> None:
    for seed in range(3):
        labels, probabilities = case(kind, 300, 7, seed)
        theirs = values_of_scikit_learn(kind, labels, probabilities)
        found = quality(kind, labels, probabilities)
        assert found.accuracy == pytest.approx(theirs["accuracy"])
        if kind == "multi_label":
            assert found.confusion is None
        else:
            np.testing.assert_array_equal(found.confusion, theirs["confusion"])
        for name in ("precision", "recall", "f1"):
            np.testing.assert_allclose(getattr(found, name), theirs[name])
        figures = found.figures()
        figures["roc_auc"] = quality(kind, *ranked(kind, labels, probabilities)).roc_auc
        assert figures == pytest.approx({name: theirs[name] for name in figures})


@settings(max_examples=50)
@given(
    st.sampled_from(KINDS), st.integers(1, 20), st.integers(2, 5), st.integers(0, 10**6), st.data()
)
def test_rows_may_come_bit_by_bit(
    kind: str, num_rows: int, num_classes: int, seed: int, data: st.DataObject
) -> None:
    labels, probabilities = case(kind, num_rows, num_classes, seed)
    num_classes = max(2, probabilities.shape[1])
    found = Quality(examples(labels), kind=kind, num_classes=num_classes)
    begin = 0
    while begin < num_rows:
        end = data.draw(st.integers(begin + 1, num_rows))
        found.add(probabilities[begin:end])
        begin = end
    whole = quality(kind, labels, probabilities)
    assert found.figures() == whole.figures()
    np.testing.assert_array_equal(found.confusion, whole.confusion)


def test_sets_of_classes_are_the_matrix() -> None:
    labels, probabilities = case("multi_label", 50, 6, 0)
    sets = RaggedSets(
        values=np.nonzero(labels)[1],
        row_splits=np.concatenate([[0], labels.sum(axis=1).cumsum()]),
        num_tokens=6,
    )
    first = quality("multi_label", labels, probabilities)
    second = quality("multi_label", sets, probabilities)
    assert first.figures() == second.figures()
    assert first.accuracy == second.accuracy


def test_what_is_left_out_where_it_would_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MAX_RANKED", 2099)
    labels, probabilities = case("multi_class", 300, 7, 0)
    found = quality("multi_class", labels, probabilities)
    assert found.roc_auc is None
    assert found.figures()["f1_macro"] is not None
    for num_classes in (1_000, 1_001):
        found = quality("multi_class", *case("multi_class", 9, num_classes, 0))
        assert (found.confusion is None) == (num_classes > 1_000)


def test_a_class_without_rows_has_no_roc_auc() -> None:
    found = quality("binary", np.ones(3, int), np.array([[0.1], [0.6], [0.7]], "f4"))
    assert found.roc_auc is None
    assert found.figures()["recall_macro"] == pytest.approx(1 / 3)
    found = quality("binary", np.array([0, 1]), np.array([[np.nan], [0.6]], "f4"))
    assert found.roc_auc is None


@pytest.mark.parametrize(
    ("kind", "labels", "probabilities", "trivial"),
    [
        ("binary", [0, 0, 1], [[0.1], [0.2], [0.3]], True),
        ("binary", [0, 0, 1], [[0.1], [0.2], [0.7]], False),
        ("binary", [1, 1], [[0.6], [0.7]], False),
        ("multi_class", [0, 1, 2, 2], [[0, 0, 1]] * 4, True),
        ("multi_class", [0, 1, 2, 2], [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], False),
        ("multi_label", [[1, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 0, 0]] * 3, True),
        ("multi_label", [[1, 0, 0], [1, 0, 0], [0, 1, 0]], [[1, 0, 0]] * 3, True),
        ("multi_label", [[1, 0, 0], [1, 0, 0], [0, 1, 0]], [[1, 0, 0]] * 2 + [[0, 1, 0]], False),
    ],
)
def test_whether_it_beats_the_commonest_class(
    kind: str, labels: Any, probabilities: Any, trivial: bool
) -> None:
    found = quality(kind, np.array(labels), np.array(probabilities, "f4"))
    hint = found.hint(["good", "bad", "odd"][: len(found.support)])
    assert (hint is not None) == trivial
    assert hint is None or ("no better than" in hint and f"of {len(labels)} rows" in hint)


@pytest.mark.parametrize(
    ("labels", "are"),
    [([0, 1], True), ([0.0, 1.0], True), ([0.5, 1.0], False), ([[0.2, 1.0], [0, 0]], False)],
)
def test_only_classes_are_measured(labels: Any, are: bool) -> None:
    assert measures.are_classes(examples(np.array(labels))) is are


def test_sets_of_classes_are_measured_and_rows_without_labels_are_not() -> None:
    sets = RaggedSets(values=np.array([1]), row_splits=np.array([0, 1, 1]), num_tokens=2)
    assert measures.are_classes(examples(sets))
    assert not measures.are_classes(Examples(inputs={"": sets}))


@given(
    pairs=st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_no_threshold_has_a_higher_f1(pairs: list[tuple[float, bool]]) -> None:
    scores, among = np.array([s for s, _ in pairs]), np.array([a for _, a in pairs])

    def f1(threshold: float) -> float:
        taken = scores > threshold
        return 2 * (taken & among).sum() / max(1, taken.sum() + among.sum())

    (found,) = best_thresholds(scores.astype(np.float32)[:, None], among[:, None])
    if not among.any():
        assert found == 0.5
    else:
        assert f1(found) == max(f1(t) for t in (0.0, 0.05, 0.2, 0.3, 0.6, 0.9))
