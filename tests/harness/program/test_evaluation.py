"""The compiled evaluation against Keras over all rows, with a smaller last batch."""

from typing import Any

import keras
import numpy as np

import harness
from harness.data.examples import Examples
from harness.feed.batch import Columns
from harness.feed.feed import build_feed
from harness.feed.plan import evaluation_plan
from harness.task.task import Task
from tests.harness.program.rig import build_rig
from tests.harness.random_sets import random_sets


def test_of_a_regression_changes_nothing() -> None:
    sets = random_sets(np.random.default_rng(), rows=45)
    numbers = np.random.default_rng().normal(size=[45, 1]).astype(np.float32)
    rows = Examples(inputs={"": sets.derived(labels=None)}, labels=numbers)

    def network(inputs: Any) -> Any:
        hidden = harness.HashDropout(0.4)(harness.MultiHotDense(4, sets.num_tokens)(inputs))
        return keras.layers.Dense(1)(hidden)

    rig = build_rig(rows, model=network, task=Task("regression"))
    before = rig.state.save()
    lengths = Columns.of(rows).lengths
    plan = evaluation_plan(lengths, batch_size=8, replicas=1, steps_per_call=3)
    feed = build_feed("resident", rows, devices=rig.devices.names)
    rig.programs.evaluate(feed, plan, step=17, epoch=3)
    np.testing.assert_equal(rig.state.save(), before)
