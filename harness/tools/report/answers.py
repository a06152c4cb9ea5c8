"""What a model answers for the test rows, against their labels; and the points of ROC and
precision-recall curves, by scikit-learn's definitions. Letters: B rows, K classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.base.errors import InputError
from harness.task.measures import Quality

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Ranking(NamedTuple):
    """What every threshold comes to, from the highest score down."""

    false_positive_rate: Floats
    recall: Floats
    precision: Floats
    average_precision: float  # the mean precision, weighed by the growth of the recall


def ranking(scores: npt.NDArray[Any], among: Bools) -> Ranking | None:
    """Returns the curves of a class, with a point for each distinct score after that of a threshold
    above all; None where all rows or none are in the class."""
    if among.all() or not among.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ordered, inside = scores[order], among[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # of each distinct score
    hits = np.cumsum(inside)[last]
    recall, precision = hits / hits[-1], hits / (last + 1)
    return Ranking(
        false_positive_rate=np.append(0.0, (last + 1 - hits) / (len(among) - hits[-1])),
        recall=np.append(0.0, recall),
        precision=np.append(1.0, precision),
        average_precision=float((np.diff(recall, prepend=0.0) * precision).sum()),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """The probabilities that a model gives B rows, what is predicted by them, and what is true."""

    kind: str
    names: Sequence[str]
    probabilities: npt.NDArray[np.float32]  # [B, K]
    taken: Bools  # [B, K]: whether a row is predicted to be of a class
    truth: Bools  # [B, K]: whether it is

    @classmethod
    def of(cls, quality: Quality, names: Sequence[str]) -> "Answers":
        kind, found = quality.kind, quality.probabilities
        if found is None or not np.isfinite(found).all():
            raise InputError(
                "the model gives probabilities that are not finite, so there is nothing to report; "
                "train it again, with a lower --learning-rate"
            )
        found = np.concatenate([1 - found, found], axis=1) if kind == "binary" else found
        truth = quality.labels
        if kind == "multi_label":
            taken = found > quality.thresholds
        else:
            truth, taken = (
                one[:, None] == np.arange(len(names)) for one in (truth, found.argmax(axis=1))
            )
        return cls(kind=kind, names=names, probabilities=found, taken=taken, truth=truth)

    def rankings(self, classes: Sequence[int]) -> list[tuple[str, Ranking]]:
        """The names and curves of those classes that have some; binary: of class 1."""
        numbers = [1] if self.kind == "binary" else classes
        curves = {n: ranking(self.probabilities[:, n], self.truth[:, n]) for n in numbers}
        return [(self.names[n], curve) for n, curve in curves.items() if curve is not None]

    def mistakes(self, most: int) -> list[tuple[int, str, str, float]]:
        """The rows that are wrong and whose truth has the lowest probability: the row, its classes,
        those that were predicted, and the probability."""
        # Of several labels the geometric mean, whose logarithm is the cross-entropy.
        each = np.where(self.truth, self.probabilities, 1 - self.probabilities)
        probability = np.exp(np.log(np.maximum(each, 1e-30)).mean(axis=1))
        if self.kind != "multi_label":
            probability = each[self.truth]
        wrong = np.flatnonzero((self.taken != self.truth).any(axis=1))
        worst = wrong[np.argsort(probability[wrong], kind="stable")[:most]].tolist()
        return [
            (n, self._named(self.truth[n]), self._named(self.taken[n]), float(probability[n]))
            for n in worst
        ]

    def _named(self, among: Bools) -> str:
        return ", ".join(self.names[n] for n in np.flatnonzero(among).tolist()) or "none"
