"""The look at gradients, which are those of training, and which it does not change."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.program.model_programs import NUM_BINS, InspectionSchedule, distribution
from tests.harness.program.rig import assert_same, build_rig, step_of
from tests.harness.random_sets import random_sets

EVERY = InspectionSchedule(histograms_every=1, precision_every=1)


def test_it_changes_nothing() -> None:
    sets = random_sets(np.random.default_rng(), rows=64)
    rig = build_rig(sets, precision="mixed_float16", dropout=0.3, steps_per_call=2)
    start = rig.values()
    plain = rig.train()
    end = rig.values()
    rig.set_values(start)
    sums = []
    for dispatch, batches in rig.dispatches():
        sums += [rig.run(call, batches) for call in dispatch.calls]
        before = rig.values()
        inspection, _ = rig.programs.inspect(dispatch, batches, EVERY)
        assert inspection is not None
        assert_same(before, rig.values())
    np.testing.assert_array_equal(plain, sums)
    assert_same(end, rig.values())


def test_the_gradients_are_those_of_training() -> None:
    """Under plain descent with a rate of 1, a step moves each weight by its gradient."""
    sets = random_sets(np.random.default_rng(), rows=64)
    rig = build_rig(sets, dropout=0.3, optimizer="sgd", learning_rate=1.0, hidden_units=(6,))
    rig.randomize(np.random.default_rng())
    # Weights are small: if the model were sure of a row, its gradient would be lost in the
    # difference of the weights before and after, by which the touched rows are found.
    rig.set_weights([0.2 * weights for weights in rig.weights()])
    dispatch, batches = next(rig.dispatches())
    inspection, compilations = rig.programs.inspect(dispatch, batches, EVERY)
    assert inspection is not None
    assert [made.program for made in compilations] == ["look at gradients"]
    assert not rig.programs.inspect(dispatch, batches, EVERY)[1], "compiled once"
    assert inspection.step == dispatch.num_steps
    assert inspection.non_finite_fraction == 0.0
    before = rig.weights()
    rig.run(step_of(dispatch.calls[0], dispatch.num_steps - 1), batches)
    spreads = {spread.name: spread for spread in inspection.gradients}
    seen = {weights.name: weights for weights in inspection.weights}
    assert set(spreads) == set(seen) == set(rig.weight_names)
    for name, old, new in zip(rig.weight_names, before, rig.weights(), strict=True):
        gradient = old.astype(np.float64) - new
        if name == "multi_hot_dense/kernel":  # without the rows of other ids
            gradient = gradient[np.abs(gradient).max(axis=1) > 1e-7]
        assert sum(spreads[name].counts) == gradient.size
        assert sum(seen[name].counts) == old.size
        for spread, values in ((spreads[name], gradient), (seen[name], old)):
            if values.size > 1:  # NumPy puts a bin of width 1 around a single value
                ends = [spread.edges[0], spread.edges[-1]]
                np.testing.assert_allclose(ends, [values.min(), values.max()], atol=2e-6)


def test_a_gradient_that_is_not_finite_is_counted() -> None:
    sets = random_sets(np.random.default_rng(), rows=32)
    rig = build_rig(sets, hidden_units=(6,))
    dispatch, batches = next(rig.dispatches())
    weights = [w.copy() for w in rig.weights()]
    weights[-1][:] = np.nan  # the bias of the logits: every gradient passes it
    rig.set_weights(weights)
    inspection, _ = rig.programs.inspect(dispatch, batches, EVERY)
    assert inspection is not None
    (bias,) = (spread for spread in inspection.gradients if spread.name == "logits/bias")
    assert (sum(bias.counts), bias.num_non_finite) == (0, 1)
    num_elements = sum(w.size for w in weights)
    # The rows of ids that are not in the batch stay 0.
    assert 0 < inspection.non_finite_fraction < 1
    counted = sum(g.num_non_finite for g in inspection.gradients)
    assert inspection.non_finite_fraction == pytest.approx(counted / num_elements)


def test_when_it_is_time() -> None:
    rig = build_rig(
        random_sets(np.random.default_rng(), rows=16), precision="mixed_float16", hidden_units=(4,)
    )
    dispatch, batches = next(rig.dispatches())
    for schedule, with_histograms, with_precision in (
        (InspectionSchedule(), [], []),
        (InspectionSchedule(histograms_every=2), [1, 3], []),
        (InspectionSchedule(histograms_every=2, precision_every=3), [1, 3], [2]),
    ):
        seen = {
            epoch: rig.programs.inspect(replace(dispatch, epoch=epoch), batches, schedule)[0]
            for epoch in range(4)
        }
        found = {epoch: one for epoch, one in seen.items() if one is not None}
        assert sorted(found) == sorted(with_histograms + with_precision)
        assert [epoch for epoch, one in found.items() if one.gradients] == with_histograms


@given(arrays.arrays(np.float32, st.integers(0, 200), elements=st.floats(width=32)))
def test_every_element_is_in_a_bin_or_not_finite(values: np.ndarray) -> None:
    spread = distribution("name", values)
    finite = values[np.isfinite(values)]
    assert sum(spread.counts) == finite.size
    assert sum(spread.counts) + spread.num_non_finite == values.size
    assert len(spread.edges) == len(spread.counts) + 1 == NUM_BINS + 1
    assert list(spread.edges) == sorted(spread.edges)
    if finite.size:
        # As Python's floats: an edge beyond the largest float32 is not cast to one.
        assert spread.edges[0] <= float(finite.min())
        assert spread.edges[-1] >= float(finite.max())
