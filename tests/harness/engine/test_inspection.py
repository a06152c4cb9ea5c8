"""The look at gradients: those of the training itself, which it leaves as it is."""

import dataclasses

import numpy as np
import pytest

from harness.data.ragged import RaggedSets
from harness.engine.inspection import Inspector, Looks
from tests.harness.engine.rig import Rig, assert_same, build_rig
from tests.harness.random_sets import random_sets

EVERY = Looks(histograms_every=1, precision_every=1)


def inspector_of(rig: Rig, looks: Looks = EVERY) -> Inspector:
    return Inspector(rig.network.logits, rig.replicas, rig.devices, looks)


@pytest.mark.parametrize(("replicas", "precision"), [(1, "float32"), (2, "mixed_float16")])
def test_it_changes_nothing(replicas: int, precision: str) -> None:
    sets = random_sets(np.random.default_rng(), rows=64)
    rig = build_rig(sets, replicas=replicas, precision=precision, dropout=0.3, steps_per_dispatch=2)
    start = rig.state()
    plain = rig.train()
    end = rig.state()
    rig.set_state(start)
    inspector = inspector_of(rig)
    sums = []
    for dispatch, batches in rig.dispatches():
        sums.append(rig.step(batches, dispatch.num_steps).numpy())
        before = rig.state()
        inspection, _ = inspector.run(dispatch, batches)
        assert inspection is not None
        assert_same(before, rig.state())
    np.testing.assert_array_equal(plain, sums)
    assert_same(end, rig.state())


def test_it_is_the_same_however_an_epoch_was_divided() -> None:
    rig = build_rig(random_sets(np.random.default_rng(), rows=32), steps_per_dispatch=4)
    whole, batches = next(rig.dispatches())
    rest = dataclasses.replace(whole, first=3, step=3, num_steps=1)
    inspector = inspector_of(rig)
    seen, of_rest = (inspector.run(dispatch, batches)[0] for dispatch in (whole, rest))
    assert seen is not None
    assert of_rest is not None
    assert dataclasses.replace(seen, seconds=0.0) == dataclasses.replace(of_rest, seconds=0.0)


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_gradients_are_those_of_training(replicas: int) -> None:
    """With plain descent and a rate of 1, a step moves each weight by its gradient."""
    sets = random_sets(np.random.default_rng(), rows=64)
    rig = build_rig(
        sets, replicas=replicas, dropout=0.3, optimizer="sgd", learning_rate=1.0, hidden_units=(6,)
    )
    rig.randomize(np.random.default_rng())
    dispatch, batches = next(rig.dispatches())
    inspector = inspector_of(rig)
    inspection, compilation = inspector.run(dispatch, batches)
    assert inspection is not None
    assert compilation is not None
    assert inspector.run(dispatch, batches)[1] is None, "compiled once"
    assert inspection.step == dispatch.num_steps
    assert (inspection.non_finite_fraction, inspection.underflow_fraction) == (0.0, None)
    before = rig.state()[0]
    rig.step(batches, 1, first=dispatch.num_steps - 1).numpy()
    after = rig.state()[0]
    variables = rig.network.logits.trainable_variables
    for index, variable in enumerate(variables):
        gradient = before[index].astype(np.float64) - after[index]
        if index == 0:  # the table: without the rows of other ids
            gradient = gradient[np.abs(gradient).max(axis=1) > 1e-7]
        spread, weights = inspection.gradients[index], inspection.weights[index]
        assert spread.name == weights.name == variable.path
        assert sum(spread.counts) == gradient.size
        assert sum(weights.counts) == before[index].size
        for distribution, values in ((spread, gradient), (weights, before[index])):
            if values.size > 1:  # NumPy puts a bin of width 1 around a single value
                ends = [distribution.edges[0], distribution.edges[-1]]
                np.testing.assert_allclose(ends, [values.min(), values.max()], atol=2e-6)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_gradient_that_is_not_finite_is_counted(replicas: int) -> None:
    sets = random_sets(np.random.default_rng(), rows=32)
    rig = build_rig(sets, replicas=replicas, hidden_units=(6,))
    dispatch, batches = next(rig.dispatches())
    weights = rig.network.logits.get_weights()
    weights[-1][:] = np.nan  # the bias of the logits: every gradient passes it
    rig.network.logits.set_weights(weights)
    inspection, _ = inspector_of(rig).run(dispatch, batches)
    assert inspection is not None
    bias = inspection.gradients[-1]
    assert (sum(bias.counts), bias.num_non_finite) == (0, 1)
    num_elements = sum(w.size for w in weights)
    # The rows of ids that are not in the batch stay 0.
    assert 0 < inspection.non_finite_fraction < 1
    counted = sum(g.num_non_finite for g in inspection.gradients)
    assert inspection.non_finite_fraction == pytest.approx(counted / num_elements)


def one_id_a_row(rows: int, num_tokens: int) -> RaggedSets:
    return RaggedSets(
        values=np.arange(rows),
        row_splits=np.arange(rows + 1),
        labels=np.arange(rows) % 2,
        num_tokens=num_tokens,
        name="ids",
    )


@pytest.mark.parametrize("replicas", [1, 2])
def test_underflow_is_what_16_bits_lose_against_float32(replicas: int) -> None:
    """Rows of one id each, so that a row's gradient is one row of the table; the loss scale decides
    whether it is below the least number of float16. Ids that no row holds do not count."""
    rows = 8
    rig = build_rig(
        one_id_a_row(rows, num_tokens=1000),
        replicas=replicas,
        precision="mixed_float16",
        hidden_units=(4,),
        steps_per_dispatch=1,
    )
    # All units are active, and pass a gradient of half their weight times 1/8.
    table, bias, kernel, last = (w.copy() for w in rig.network.logits.get_weights())
    table[:], bias[:], last[:] = 1.0, 0.0, 0.0
    kernel[:, 0] = [1e-2, -1e-3, 1e-7, -1e-8]
    rig.network.logits.set_weights([table, bias, kernel, last])
    dispatch, batches = next(rig.dispatches())
    inspector = inspector_of(rig)

    def underflow(scale: float) -> float:
        for replica in rig.replicas:
            assert replica.loss_scale is not None
            replica.loss_scale.scale.assign(scale)
        inspection, _ = inspector.run(dispatch, batches)
        assert inspection is not None
        assert inspection.underflow_fraction is not None
        return inspection.underflow_fraction

    # Not zero in float32: 8 rows of the table and the bias of 4 units, 4 + 1 of the logits.
    comparable = rows * 4 + 4 + 4 + 1
    assert underflow(2.0**15) == 0
    # 1e-7 / 16 and 1e-8 / 16 round to 0, whose least number is 6e-8: in 8 rows and the bias.
    assert underflow(1.0) == pytest.approx((rows + 1) * 2 / comparable)


def test_bfloat16_hardly_loses_any() -> None:
    rig = build_rig(random_sets(np.random.default_rng(), rows=64), precision="mixed_bfloat16")
    dispatch, batches = next(rig.dispatches())
    inspection, _ = inspector_of(rig).run(dispatch, batches)
    assert inspection is not None
    assert inspection.underflow_fraction is not None
    assert inspection.underflow_fraction < 0.1  # units that rounding moves across zero


@pytest.mark.parametrize(
    ("looks", "epochs", "with_histograms", "with_underflow"),
    [
        (Looks(), [], [], []),
        (Looks(histograms_every=2), [1, 3], [1, 3], []),
        (Looks(precision_every=3), [2], [], [2]),
        (Looks(histograms_every=2, precision_every=3), [1, 2, 3], [1, 3], [2]),
    ],
)
def test_when_it_is_time(
    looks: Looks, epochs: list[int], with_histograms: list[int], with_underflow: list[int]
) -> None:
    rig = build_rig(
        random_sets(np.random.default_rng(), rows=16), precision="mixed_float16", hidden_units=(4,)
    )
    dispatch, batches = next(rig.dispatches())
    inspector = inspector_of(rig, looks)
    seen = [
        inspection
        for epoch in range(4)
        if (inspection := inspector.run(dataclasses.replace(dispatch, epoch=epoch), batches)[0])
    ]
    assert [i.epoch for i in seen] == epochs
    assert [i.epoch for i in seen if i.weights and i.gradients] == with_histograms
    assert [i.epoch for i in seen if i.underflow_fraction is not None] == with_underflow


def test_the_reference_holds_no_weights_of_its_own() -> None:
    rig = build_rig(random_sets(np.random.default_rng(), rows=16), precision="mixed_float16")
    reference = inspector_of(rig)._reference
    assert reference is not None
    assert all(variable._value is None for variable in reference.variables)
    assert {layer.compute_dtype for layer in reference.layers if layer.weights} == {"float32"}
