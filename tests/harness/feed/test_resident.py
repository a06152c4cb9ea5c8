"""The resident feed: row ids of the plan, dispatches of the cadence, sets that stay where they are.

What a program reads from it is tested in `test_batch`.
"""

import itertools
import weakref

import numpy as np
import pytest
import tensorflow as tf

from harness.data.examples import Examples
from harness.feed.batch import Columns
from harness.feed.plan import EpochPlan, Plan, evaluation_plan
from harness.feed.resident import Resident
from tests.harness.feed.rows import random_examples

EPOCHS = 3
CPU = ("/CPU:0",)


@pytest.fixture
def examples() -> Examples:
    return random_examples(np.random.default_rng(), rows=53)


def plan_of(examples: Examples, *, replicas: int = 1) -> Plan:
    """Returns a plan of 7 steps an epoch, in calls of 3, 3 and 1; the last batch has 5 rows."""
    lengths = Columns.of(examples).lengths
    return Plan(
        lengths=lengths, batch_size=8, replicas=replicas, steps_per_call=3, seed=5, epochs=EPOCHS
    )


def test_every_device_gets_the_rows_of_its_replica(
    examples: Examples, logical_devices: list[str]
) -> None:
    plan = plan_of(examples, replicas=2)
    feed = Resident(Columns.of(examples), devices=logical_devices)
    epochs = []
    for dispatch, batches in feed.dispatches(plan, epochs=EPOCHS):
        shares = EpochPlan(plan, dispatch.epoch).batches
        assert batches.keys() == shares.keys() == {8, 5}
        for rows, of_devices in batches.items():
            for share, own, device in zip(shares[rows], of_devices, logical_devices, strict=True):
                np.testing.assert_array_equal(own.rows, share)
                assert all(t.device.endswith(device) for t in tf.nest.flatten(own))
        epochs.append(dispatch.epoch)
    assert epochs == [0, 1, 2], "left to itself, a dispatch is a whole epoch"


def test_an_evaluation_sends_its_row_ids_once(examples: Examples) -> None:
    lengths = Columns.of(examples).lengths
    plan = evaluation_plan(lengths, batch_size=8, steps_per_call=3, replicas=1)
    feed = Resident(Columns.of(examples), devices=CPU)
    (first,), (second,) = feed.dispatches(plan), feed.dispatches(plan)
    assert first == second
    assert all(first[1][rows][0].rows is own[0].rows for rows, own in second[1].items())
    alive = weakref.ref(feed)
    del feed
    assert alive() is None, "the rows on a device wait for no garbage collection"


def test_row_ids_of_several_epochs_go_there_together(
    examples: Examples, logical_devices: list[str]
) -> None:
    plan = plan_of(examples, replicas=2)
    feed = Resident(Columns.of(examples), devices=logical_devices)
    calls, sizes = itertools.cycle([1, 3]), iter([1, 2, 2])
    alone = feed.dispatches(plan, epochs=EPOCHS, start_step=2, calls=calls.__next__)
    together = feed.dispatches(
        plan, epochs=EPOCHS, start_step=2, calls=calls.__next__, at_once=sizes.__next__
    )
    for (dispatch, batches), (other, others) in zip(list(alone), together, strict=True):
        assert dispatch == other
        for own, its in zip(tf.nest.flatten(batches), tf.nest.flatten(others), strict=True):
            assert (own.dtype, own.device) == (its.dtype, its.device)
            np.testing.assert_array_equal(own, its)


@pytest.mark.parametrize("num_tokens", [50, 100_000])
def test_the_rows_lie_there_once_and_their_memory_is_told(num_tokens: int) -> None:
    examples = random_examples(np.random.default_rng(), rows=53, num_tokens=num_tokens)
    columns = Columns.of(examples)
    feed = Resident(columns, devices=CPU)
    plans = (plan_of(examples), plan_of(examples))
    first, *others = (
        own
        for plan in plans
        for _, batches in feed.dispatches(plan, epochs=EPOCHS)
        for (own,) in batches.values()
    )
    assert len(others) == 4 * EPOCHS - 1
    for other in others:
        pairs = zip(tf.nest.flatten(first[:2]), tf.nest.flatten(other[:2]), strict=True)
        assert all(a is b for a, b in pairs)
    for name, sets in columns.ragged.items():
        np.testing.assert_array_equal(first.ragged[name]["values"], sets.values)
        np.testing.assert_array_equal(first.ragged[name]["row_splits"], sets.row_splits)
    for name, array in columns.dense.items():
        np.testing.assert_array_equal(first.dense[name], array)
    taken = sum(tensor.numpy().nbytes for tensor in tf.nest.flatten(first[:2]))
    assert taken == columns.num_bytes
