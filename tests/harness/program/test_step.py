"""The compiled step against NumPy in float64, and the promises of training.

Networks are compiled once for the module if possible; each test sets their weights.
"""

from collections.abc import Callable

import numpy as np
import pytest

from harness.feed.batch import StreamBatches
from harness.trainer.settings import PRECISIONS
from tests.harness.program.numpy_network import forward_backward
from tests.harness.program.rig import Rig, assert_same, build_rig
from tests.harness.random_sets import random_sets

Exact = Callable[..., Rig]


@pytest.fixture(scope="module")
def exact() -> Exact:
    """Returns rigs with plain SGD and learning rate 1: a step's change of the weights is the
    gradient. There are 21 rows in batches of 8, so that the last batch has 5.
    """
    rigs: dict[tuple, Rig] = {}

    def of(*settings: str | int) -> Rig:
        implementation, input_, num_classes = settings
        if settings not in rigs:
            sets = random_sets(
                np.random.default_rng(), rows=21, num_classes=int(num_classes), unique=True
            )
            rigs[settings] = build_rig(
                sets,
                implementation=str(implementation),
                input=str(input_),
                optimizer="sgd",
                learning_rate=1.0,
                steps_per_call=1,
            )
        return rigs[settings]

    return of


@pytest.mark.parametrize(
    "settings",
    [
        ("dense", "stream", 2),
        ("gather", "stream", 2),
        ("gather", "resident", 4),
        ("native", "resident", 2),
        ("native", "stream", 2),
    ],
    ids=lambda settings: "-".join(map(str, settings)),
)
def test_loss_hits_and_gradients_of_all_rows(exact: Exact, settings: tuple) -> None:
    rig = exact(*settings)
    rng = np.random.default_rng()
    order = rig.plan.order(0)
    steps = 0
    for dispatch, batches in rig.dispatches():
        for call in dispatch.calls:
            rig.randomize(rng)
            before = rig.weights()
            rows = order[steps * 8 : (steps + 1) * 8]
            truth = forward_backward(before, rig.examples.ragged[""].take(rows))
            loss, hits = rig.run(call, batches)

            np.testing.assert_allclose(loss, truth.loss.sum(), rtol=1e-5)
            assert hits == truth.hits.sum()
            for old, new, gradient in zip(before, rig.weights(), truth.gradients, strict=True):
                np.testing.assert_allclose(old - new, gradient, rtol=1e-4, atol=2e-6)
            steps += 1
    assert steps == 3


def test_what_a_buffer_holds_behind_its_ids_does_not_matter(exact: Exact) -> None:
    rig = exact("gather", "stream", 2)
    *_, (dispatch, batches) = rig.dispatches()
    (call,) = dispatch.calls
    (batch,) = batches[call.rows]
    assert isinstance(batch, StreamBatches)
    rig.randomize(np.random.default_rng())
    before = rig.values()
    sums = rig.run(call, batches)
    after = rig.values()
    sets = batch.ragged[""]
    values, row_splits = sets["values"].numpy(), sets["row_splits"].numpy()
    values[0, row_splits[0, -1] :] = 49
    soiled = batch._replace(ragged={"": {"values": values, "row_splits": row_splits}})
    rig.set_values(before)
    np.testing.assert_array_equal(rig.run(call, {call.rows: (soiled,)}), sums)
    assert_same(rig.values(), after)


def test_16_bit_training_follows_float32() -> None:
    sets = random_sets(np.random.default_rng(2), rows=64, longest=20)
    losses = {}
    for precision in PRECISIONS:
        rig = build_rig(
            sets,
            precision=precision,
            batch_size=16,
            steps_per_call=4,
            epochs=16,
            hidden_units=(16, 8),
            learning_rate=0.01,
        )
        losses[precision] = rig.train()[:, 0]
        assert losses[precision][-1] < 0.75 * losses[precision][0]
        scale = rig.states[0].loss_scale
        if precision == "mixed_float16":
            assert scale is not None
            assert (int(scale.skipped_steps), float(scale.scale)) == (0, 2.0**15)
        else:
            assert scale is None
    for precision in ("mixed_bfloat16", "mixed_float16"):
        np.testing.assert_allclose(losses[precision], losses["float32"], rtol=0.05, atol=1)
        assert (losses[precision] != losses["float32"]).any()
