"""The points of ROC, precision-recall and calibration curves.

Definitions are scikit-learn's. Letters: B rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_NUM_BINS = 10
"""Of calibration."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """What every threshold comes to, from the highest score down."""

    false_positive_rate: Floats
    """Rises from 0 to 1, as the recall."""
    recall: Floats
    precision: Floats
    average_precision: float
    """The mean precision, weighed by the growth of the recall."""

    def thinned(self, most: int) -> "Ranking":
        """At most so many of its points, evenly among them, with the first and the last."""
        kept = np.unique(np.linspace(0, len(self.recall) - 1, most).astype(int))
        return Ranking(
            false_positive_rate=self.false_positive_rate[kept],
            recall=self.recall[kept],
            precision=self.precision[kept],
            average_precision=self.average_precision,
        )


def ranking(scores: npt.NDArray[Any], among: Bools) -> Ranking | None:
    """The curves of one class.

    Args:
        scores: [B].
        among: [B], whether a row is in the class.

    Returns:
        A point for each distinct score, after that of a threshold above all, whose precision is 1.
        None where all rows or none are in the class.
    """
    if among.all() or not among.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ordered, inside = scores[order], among[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # of each distinct score
    hits = np.cumsum(inside)[last]
    recall, precision = hits / hits[-1], hits / (last + 1)
    false = (last + 1 - hits) / (len(among) - hits[-1])
    return Ranking(
        false_positive_rate=np.append(0.0, false),
        recall=np.append(0.0, recall),
        precision=np.append(1.0, precision),
        average_precision=float((np.diff(recall, prepend=0.0) * precision).sum()),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """How often answers are right that were given with a probability."""

    probability: Floats
    """Mean of each bin that has answers."""
    share: Floats
    """Of a bin's answers that are right."""
    counts: npt.NDArray[np.int64]
    error: float
    """The expected calibration error: the mean distance of both, over answers."""


def calibration(probabilities: npt.NDArray[Any], right: Bools) -> Calibration:
    """Bins of equal width over probabilities from 0 to 1.

    Args:
        probabilities: of answers, one-dimensional.
        right: whether each is.
    """
    places = np.minimum((probabilities * _NUM_BINS).astype(int), _NUM_BINS - 1)
    counts = np.bincount(places, minlength=_NUM_BINS)
    filled = counts > 0
    sums = [np.bincount(places, weights, _NUM_BINS) for weights in (probabilities, right)]
    probability, share = (total[filled] / counts[filled] for total in sums)
    distance = np.abs(probability - share) * counts[filled]
    return Calibration(
        probability=probability,
        share=share,
        counts=counts[filled],
        error=float(distance.sum() / counts.sum()),
    )
