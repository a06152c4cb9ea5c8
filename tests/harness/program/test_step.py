"""The promises of a compiled step, whose numbers benchmarks.differential compares with Keras's."""

import numpy as np

from harness.feed.batch import StreamBatches
from tests.harness.program.rig import assert_same, build_rig
from tests.harness.random_sets import random_sets


def test_what_a_buffer_holds_behind_its_ids_does_not_matter() -> None:
    sets = random_sets(np.random.default_rng(), rows=21, unique=True)
    rig = build_rig(sets, optimizer="sgd", learning_rate=1.0, steps_per_call=1)
    *_, (dispatch, batches) = rig.dispatches()
    (call,) = dispatch.calls
    (batch,) = batches[call.rows]
    assert isinstance(batch, StreamBatches)
    rig.randomize(np.random.default_rng())
    before = rig.values()
    sums = rig.run(call, batches)
    after = rig.values()
    ids = batch.ragged[""]
    values, row_splits = ids["values"].numpy(), ids["row_splits"].numpy()
    values[0, row_splits[0, -1] :] = 49
    soiled = batch._replace(ragged={"": {"values": values, "row_splits": row_splits}})
    rig.set_values(before)
    np.testing.assert_array_equal(rig.run(call, {call.rows: (soiled,)}), sums)
    assert_same(rig.values(), after)
