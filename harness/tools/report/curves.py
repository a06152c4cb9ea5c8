"""The points of ROC, precision-recall and calibration curves, by scikit-learn's definitions."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Ranking(NamedTuple):
    """What every threshold comes to, from the highest score down."""

    false_positive_rate: Floats
    recall: Floats
    precision: Floats
    average_precision: float
    """The mean precision, weighed by the growth of the recall."""


def ranking(scores: npt.NDArray[Any], among: Bools) -> Ranking | None:
    """The curves of one class, from each row's score and whether it is in the class: a point for
    each distinct score, after that of a threshold above all. None where all rows or none are in the
    class."""
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


class Calibration(NamedTuple):
    """The mean probability of answers and the share that is right, in the ten bins that are not
    empty."""

    probability: Floats
    share: Floats
    counts: Floats
    error: float
    """The expected calibration error: the mean distance of both, over answers."""


def calibration(probabilities: npt.NDArray[Any], right: Bools) -> Calibration:
    """The calibration of answers, from the probability of each and whether it is right."""
    weights = np.ones(len(right)), probabilities, right.astype(float)
    sums = np.array([np.histogram(probabilities, 10, (0, 1), weights=one)[0] for one in weights])
    counts, total, hits = sums[:, sums[0] > 0]
    error = float(np.abs(total - hits).sum() / counts.sum())
    return Calibration(total / counts, hits / counts, counts, error)
