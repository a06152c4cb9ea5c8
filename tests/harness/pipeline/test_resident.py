"""The resident feed hands the compiled loop what the stream does: the same batches in order."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from harness.data.ragged import RaggedSets
from harness.pipeline.cadence import StepsPerDispatch
from harness.pipeline.feed import Feed, build_feed
from harness.pipeline.plan import Plan, training_plan
from harness.pipeline.resident import resident_bytes

pytestmark = pytest.mark.usefixtures("logical_devices")


def random_sets(
    rng: np.random.Generator, *, num_rows: int = 53, num_tokens: int = 70
) -> RaggedSets:
    lengths = rng.integers(0, 9, num_rows)
    return RaggedSets(
        values=rng.integers(0, num_tokens, lengths.sum()),
        row_splits=np.concatenate([[0], np.cumsum(lengths)]),
        labels=rng.integers(0, 2, num_rows),
        num_tokens=num_tokens,
        name="random",
    )


def steps_of(feed: Feed) -> list[tuple]:
    """What the loop reads, step by step, for every replica: (epoch, step, rows, splits, labels)."""
    steps = []
    for dispatch, replicas in feed:
        for k in range(dispatch.num_steps):
            read = [batches.read(tf.constant(dispatch.first + k)) for batches in replicas]
            steps.append(
                (
                    dispatch.epoch,
                    dispatch.step + k,
                    [
                        (
                            step.inputs["values"].numpy()[: step.inputs["row_splits"][-1]].tolist(),
                            step.inputs["row_splits"].numpy().tolist(),
                            step.labels.numpy().tolist(),
                            int(step.num_rows),
                        )
                        for step in read
                    ],
                )
            )
    return steps


def feeds(sets: RaggedSets, plan: Plan, **options) -> tuple[Feed, Feed]:
    devices = [f"/CPU:{replica}" for replica in range(plan.replicas)]
    stream, resident = (
        build_feed(kind, sets, plan, devices=devices, implementation="gather", **options)
        for kind in ("stream", "resident")
    )
    return stream, resident


@pytest.mark.parametrize(("replicas", "num_tokens"), [(1, 70), (2, 70), (1, 100_000)])
def test_it_reads_what_the_stream_brings(replicas: int, num_tokens: int) -> None:
    sets = random_sets(np.random.default_rng(), num_tokens=num_tokens)
    plan = training_plan(
        sets.lengths, batch_size=8, replicas=replicas, steps_per_dispatch=3, seed=5
    )
    stream, resident = feeds(sets, plan, epochs=2)
    assert steps_of(resident) == steps_of(stream)
    assert steps_of(resident) == steps_of(resident), "it can be iterated again"


def test_it_resumes_within_an_epoch() -> None:
    sets = random_sets(np.random.default_rng())
    plan = training_plan(sets.lengths, batch_size=8, replicas=1, steps_per_dispatch=3, seed=5)
    whole, _ = feeds(sets, plan, epochs=3)
    _, rest = feeds(sets, plan, epochs=3, start_step=plan.steps_per_epoch + 4)
    assert steps_of(rest) == steps_of(whole)[plan.steps_per_epoch + 4 :]


def test_a_dispatch_follows_the_cadence_and_ends_with_the_epoch() -> None:
    sets = random_sets(np.random.default_rng())
    plan = training_plan(sets.lengths, batch_size=8, replicas=1, steps_per_dispatch=3, seed=5)
    cadence = StepsPerDispatch(2, fixed=True)
    _, resident = feeds(sets, plan, epochs=2, steps=cadence)
    sizes = []
    for dispatch, _ in resident:
        sizes.append(dispatch.num_steps)
        cadence.num_steps += 1
    assert sum(sizes) == 2 * plan.steps_per_epoch == 14
    assert sizes == [2, 3, 2, 5, 2]


def test_a_batch_that_needs_more_room_stands_alone() -> None:
    lengths = np.full(64, 3)
    lengths[17] = 3_000
    sets = RaggedSets(
        values=np.zeros(lengths.sum(), np.int32),
        row_splits=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.zeros(64, np.int32),
        num_tokens=2,
        name="outlier",
    )
    plan = training_plan(sets.lengths, batch_size=2, replicas=1, steps_per_dispatch=32, seed=1)
    assert plan.capacities.typical < 3_000 < plan.capacities.largest
    _, resident = feeds(sets, plan)
    dispatches = [dispatch for dispatch, _ in resident]
    large = [d for d in dispatches if d.capacity == plan.capacities.largest]
    assert [d.num_steps for d in large] == [1]
    assert sum(d.num_steps for d in dispatches) == 32
    for before, after in itertools.pairwise(dispatches):
        assert after.step == before.step + before.num_steps


def test_its_memory_is_told_beforehand() -> None:
    sets = random_sets(np.random.default_rng())
    plan = training_plan(sets.lengths, batch_size=8, replicas=1, steps_per_dispatch=3, seed=5)
    _, resident = feeds(sets, plan)
    _, (batches,) = next(iter(resident))
    taken = sum(tensor.numpy().nbytes for tensor in batches.sets)
    assert taken == resident_bytes(sets)
