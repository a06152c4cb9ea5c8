"""The compiled evaluation against NumPy over all rows, with padding in the last batch."""

import numpy as np
import pytest

from harness.data.ragged import RaggedSets
from harness.engine.evaluation import Evaluator
from harness.pipeline.plan import evaluation_plan
from harness.pipeline.stream import Stream
from tests.harness.engine.numpy_network import forward_backward
from tests.harness.engine.rig import Rig, assert_same, build_rig
from tests.harness.random_sets import random_sets


def evaluator_of(rig: Rig, sets: RaggedSets, *, batch_size: int) -> Evaluator:
    plan = evaluation_plan(
        sets.lengths,
        batch_size=batch_size,
        replicas=len(rig.replicas),
        steps_per_dispatch=3,
    )
    return Evaluator(rig.network.logits, Stream(sets, plan), rig.devices)


@pytest.mark.parametrize(
    ("replicas", "num_classes", "implementation"),
    [(1, 2, "gather"), (2, 2, "dense"), (1, 5, "dense")],
)
def test_is_the_mean_over_all_rows(replicas: int, num_classes: int, implementation: str) -> None:
    # 45 rows in batches of 8: a dispatch of 3 steps, one of 3 with the last batch padded.
    sets = random_sets(np.random.default_rng(), rows=45, num_classes=num_classes)
    rig = build_rig(sets, replicas=replicas, dropout=0.4, implementation=implementation)
    evaluator = evaluator_of(rig, sets, batch_size=8)
    for call in range(2):
        rig.randomize(np.random.default_rng())
        before = rig.state()
        evaluation, compilation = evaluator.run(step=17, epoch=3)
        truth = forward_backward(rig.network.logits.get_weights(), sets)
        np.testing.assert_allclose(evaluation.loss, truth.loss.mean(), rtol=1e-5)
        assert evaluation.accuracy == truth.hits.sum() / 45
        assert (evaluation.examples, evaluation.step, evaluation.epoch) == (45, 17, 3)
        assert evaluation.seconds > 0
        assert_same(rig.state(), before)  # also no seed was used up
        if call == 0:
            assert compilation is not None
            assert (compilation.program, compilation.step) == ("evaluation", 17)
            assert compilation.seconds > 0
        else:
            assert compilation is None


def test_fewer_rows_than_a_batch_and_than_replicas() -> None:
    sets = random_sets(np.random.default_rng(), rows=9)
    rig = build_rig(sets, replicas=2)
    one = sets.take([4])
    evaluation, _ = evaluator_of(rig, one, batch_size=8).run(step=0, epoch=0)
    truth = forward_backward(rig.network.logits.get_weights(), one)
    np.testing.assert_allclose(evaluation.loss, truth.loss[0], rtol=1e-5)
    assert evaluation.examples == 1
