"""The quality of predictions: accuracy, precision, recall, F1, ROC-AUC and the confusion matrix.

Definitions are scikit-learn's (https://scikit-learn.org/stable/modules/model_evaluation.html), with
`zero_division=0`. Letters: B rows, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets

MAX_RANKED = 10_000_000  # Most probabilities for which ROC-AUC is computed, by a sort
MAX_CONFUSED = 1_000  # The most classes for which the confusion matrix is computed

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


class Quality:
    """The quality of predictions for labelled rows, whose probabilities `add` takes in order."""

    kind: str  # The task's: `binary`, `multi_class` or `multi_label`
    thresholds: npt.NDArray[np.float32]
    """Multi-label: the probability above which each class was predicted, [K], or [] for all."""
    num_classes: int  # K
    num_rows: int  # Rows added so far, B
    right: Counts  # Rows of each class that were predicted to be of it, [K]
    predicted: Counts  # Rows that were predicted to be of each class, [K]
    support: Counts  # Rows of each class, [K]
    confusion: Counts | None
    """The rows of each class (the first axis) by predicted class, [K, K]. None for multi-label, and
    above `MAX_CONFUSED` classes."""

    def __init__(
        self,
        examples: Examples,
        *,
        kind: str,
        num_classes: int,
        thresholds: Sequence[float] | None = None,
    ) -> None:
        self.kind, self._labels = kind, examples.labels
        self.thresholds = np.asarray(0.5 if thresholds is None else thresholds, np.float32)
        self.num_classes = num_classes
        num_ranked = examples.num_rows * (1 if kind == "binary" else num_classes)
        self._is_ranked = num_ranked <= MAX_RANKED
        self.reset()

    def reset(self) -> None:
        num_classes = self.num_classes
        self.num_rows = 0
        self.right, self.predicted, self.support = self._sums = np.zeros([3, num_classes], np.int64)
        is_confused = self.kind != "multi_label" and num_classes <= MAX_CONFUSED
        self.confusion = np.zeros([num_classes] * 2, np.int64) if is_confused else None
        self._ranked: list[npt.NDArray[np.float32]] = []

    def add(self, probabilities: npt.NDArray[np.float32]) -> None:
        """Adds the next rows' probabilities, float [b, K]; binary: those of class 1, [b, 1]."""
        num_classes = self.num_classes
        begin, self.num_rows = self.num_rows, self.num_rows + len(probabilities)
        labels = labels_of(self._labels, begin, self.num_rows, self.kind, num_classes)
        if self.kind == "multi_label":
            taken = probabilities > self.thresholds
            counted = [np.count_nonzero(of, axis=0) for of in (taken & labels, taken, labels)]
        else:
            binary = self.kind == "binary"
            taken = probabilities[:, 0] > 0.5 if binary else probabilities.argmax(axis=1)
            taken = taken.astype(np.int64)
            parts = (labels[taken == labels], taken, labels)
            counted = [np.bincount(of, minlength=num_classes) for of in parts]
            if self.confusion is not None:
                np.add.at(self.confusion, (labels, taken), 1)
        self._sums += counted
        if self._is_ranked:
            self._ranked.append(probabilities)

    def __repr__(self) -> str:
        return f"<Quality {self.kind}: accuracy {self.accuracy:.4f} of {self.num_rows:,} rows>"

    @property
    def probabilities(self) -> npt.NDArray[np.float32] | None:
        """The predicted probabilities, [B, K]; binary: those of class 1, [B, 1]. None above
        `MAX_RANKED` of them."""
        return np.concatenate(self._ranked) if self._is_ranked else None

    @property
    def labels(self) -> npt.NDArray[Any]:
        """The classes, int64 [B]; for multi-label bool [B, K]."""
        return labels_of(self._labels, 0, self.num_rows, self.kind, self.num_classes)

    @property
    def accuracy(self) -> float:
        """The share of rows predicted right; for multi-label the share of the B * K answers."""
        if self.kind != "multi_label":
            return float(self.right.sum() / self.num_rows)
        wrong = self.predicted.sum() + self.support.sum() - 2 * self.right.sum()
        return float(1 - wrong / (self.num_rows * self.num_classes))

    @property
    def precision(self) -> Shares:
        return _share(self.right, self.predicted)

    @property
    def recall(self) -> Shares:
        return _share(self.right, self.support)

    @property
    def f1(self) -> Shares:
        return _share(2 * self.right, self.predicted + self.support)

    @property
    def leading(self) -> tuple[str, float]:
        """The name and value of the measure that counts: accuracy; micro F1 for multi-label, where
        an answer without any class has a high accuracy."""
        if self.kind == "multi_label":
            return "micro F1", self.f1_micro
        return "accuracy", self.accuracy

    def macro(self, by_class: Shares) -> float:
        """Returns the mean over classes. Unless the task is multi-label, it leaves out classes that
        are neither in the labels nor predicted."""
        counted = (self.predicted + self.support > 0) | (self.kind == "multi_label")
        return float(by_class[counted].mean())

    @property
    def f1_micro(self) -> float:
        """The F1 of all classes' answers together, which is the accuracy if each row has one
        class."""
        return float(_share(2 * self.right.sum(), self.predicted.sum() + self.support.sum()))

    @property
    def roc_auc(self) -> float | None:
        """The mean over the classes of the ROC-AUC of a class against the rest; binary: that of
        class 1. It leaves out classes that all rows have or none has. None if no class is left,
        above `MAX_RANKED` probabilities, or if one is not finite."""
        probabilities, labels = self.probabilities, self.labels
        if probabilities is None or not np.isfinite(probabilities).all():
            return None
        if self.kind != "multi_label":
            labels = labels[:, None] == ([1] if self.kind == "binary" else range(self.num_classes))
        pairs = zip(probabilities.T, labels.T, strict=True)
        found = [roc_auc(scores, among) for scores, among in pairs if 0 < among.sum() < len(among)]
        return float(np.mean(found)) if found else None

    def hint(self, class_names: Sequence[str]) -> str | None:
        """Returns a message for the user if the commonest class for every row is at least as good,
        by accuracy or micro F1, else None."""
        (what, reached), commonest = self.leading, int(self.support.argmax())
        most = int(self.support[commonest])
        is_trivial = self.right.sum() <= most
        if self.kind == "multi_label":
            is_trivial = reached <= 2 * most / (self.num_rows + int(self.support.sum()))
        if not is_trivial or most == self.num_rows:  # there are no classes to tell apart
            return None
        return (
            f"the {what} of {reached:.4f} is no better than predicting the most common class, "
            f"{class_names[commonest]!r} ({most:,} of {self.num_rows:,} rows), for every row; "
            "train for more --epochs, set another --learning-rate or --batch-size, or check the "
            "labels"
        )

    def figures(self) -> dict[str, float]:
        """Returns the numbers that summary.json has besides the accuracy, by name; `roc_auc` only
        if there is one."""
        found = {
            "f1_macro": self.macro(self.f1),
            "f1_micro": self.f1_micro,
            "precision_macro": self.macro(self.precision),
            "recall_macro": self.macro(self.recall),
        }
        return found if (mean := self.roc_auc) is None else {**found, "roc_auc": mean}

    def best_thresholds(self) -> list[float] | None:
        """Returns `best_thresholds` of these rows; None above `MAX_RANKED` probabilities."""
        found = self.probabilities
        return None if found is None else best_thresholds(found, self.labels)


def best_thresholds(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.bool_]
) -> list[float]:
    """Returns each class's threshold of the highest F1, between two probabilities, [K]."""
    found = []
    for scores, among in zip(probabilities.T.astype(np.float64), labels.T, strict=True):
        order = np.argsort(-scores, kind="stable")
        right = np.cumsum(among[order])
        f1 = 2 * right / (np.arange(1, len(order) + 1) + among.sum())
        scores = np.append(scores[order], 0.0)
        f1[scores[:-1] == scores[1:]] = 0.0  # equal probabilities are on one side
        best = int(f1.argmax())
        found.append(float(scores[best : best + 2].mean()) if among.any() else 0.5)
    return found


def are_classes(examples: Examples) -> bool:
    """Whether every label is a class, or 0 or 1 for each class, and no number between."""
    labels = examples.labels
    if not isinstance(labels, np.ndarray):
        return isinstance(labels, RaggedSets)
    return labels.dtype.kind != "f" or bool((labels == np.floor(labels)).all())


def labels_of(given: Any, begin: int, end: int, kind: str, num_classes: int) -> npt.NDArray[Any]:
    """Returns the classes of rows, int64 [b]; for multi-label bool [b, K]."""
    if isinstance(given, RaggedSets):
        splits = given.row_splits[begin : end + 1]
        among = np.zeros([end - begin, num_classes], np.bool_)
        rows = np.repeat(np.arange(end - begin), np.diff(splits))
        among[rows, given.values[splits[0] : splits[-1]]] = True
        return among
    labels = given[begin:end]
    if kind == "multi_label":
        return labels.astype(np.bool_)
    return labels.reshape(-1).astype(np.int64)


def roc_auc(scores: npt.NDArray[Any], among: npt.NDArray[np.bool_]) -> float:
    """Returns the ROC-AUC of a class that some rows have and some have not: the share of all pairs
    of a row inside and a row outside in which the first has the higher score; equal scores count
    half (Mann-Whitney U)."""
    inside, outside = np.sort(scores[among]), np.sort(scores[~among])
    below = np.searchsorted(outside, inside, "left").sum()
    not_above = np.searchsorted(outside, inside, "right").sum()
    return float((below + not_above) / (2 * inside.size * outside.size))


def _share(part: Any, of: Any) -> Shares:
    return np.asarray(part / np.maximum(of, 1), np.float64)
