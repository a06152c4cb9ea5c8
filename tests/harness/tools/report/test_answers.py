"""Curves against loops over thresholds."""

import itertools

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from harness.task.measures import roc_auc
from harness.tools.report.answers import ranking


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_every_threshold_has_its_point(pairs: list[tuple[int, bool]]) -> None:
    scores, among = np.array([s for s, _ in pairs], "f4"), np.array([a for _, a in pairs])
    found = ranking(scores, among)
    if among.all() or not among.any():
        assert found is None
        return
    assert found is not None
    thresholds = sorted(set(scores.tolist()), reverse=True)
    points = [(0.0, 0.0, 1.0)]
    for threshold in thresholds:
        taken = scores >= threshold
        hits = (taken & among).sum()
        false = (taken & ~among).sum() / (~among).sum()
        points.append((false, hits / among.sum(), hits / taken.sum()))
    own = (found.false_positive_rate, found.recall, found.precision)
    np.testing.assert_allclose(np.array(own).T, points)
    area = np.trapezoid(found.recall, found.false_positive_rate)
    np.testing.assert_allclose(area, roc_auc(scores, among))
    steps = [(b[1] - a[1]) * b[2] for a, b in itertools.pairwise(points)]
    np.testing.assert_allclose(found.average_precision, sum(steps))
