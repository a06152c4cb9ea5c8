"""The stream against a NumPy reconstruction from the rows and the plan."""

from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.ragged import RaggedSets
from harness.pipeline.batch import Batches
from harness.pipeline.plan import Dispatch, Plan, evaluation_plan, training_plan
from harness.pipeline.stream import Stream
from tests.harness.random_sets import random_sets


def expected(
    sets: RaggedSets, plan: Plan, *, epochs: int, start_step: int = 0
) -> Iterator[tuple[Dispatch, list[list[np.ndarray]]]]:
    """For each dispatch and replica: values, row_splits, labels, num_rows, one row at a time."""
    steps, share = plan.steps_per_dispatch, plan.batch_size // plan.replicas
    first_epoch, first_step = divmod(start_step, plan.steps_per_epoch)
    for epoch in range(first_epoch, epochs):
        order = plan.order(epoch).reshape(-1, plan.batch_size)
        for dispatch in plan.dispatches(epoch, first_step=first_step):
            begin = dispatch.step - epoch * plan.steps_per_epoch
            fields = [
                [
                    np.zeros((steps, dispatch.capacity), np.int64),
                    np.zeros((steps, share + 1), np.int64),
                    np.zeros((steps, share), np.int64),
                    np.zeros(steps, np.int64),
                ]
                for _ in range(plan.replicas)
            ]
            for step in range(dispatch.num_steps):
                batch = order[begin + step]
                for replica, (values, row_splits, labels, num_rows) in enumerate(fields):
                    position = 0
                    for place, row in enumerate(batch[replica * share : (replica + 1) * share]):
                        if row < sets.num_rows:
                            ids = sets.row(int(row))
                            values[step, position : position + len(ids)] = ids
                            labels[step, place] = sets.labels[row]
                            position += len(ids)
                        row_splits[step, place + 1] = position
                    num_rows[step] = (batch < sets.num_rows).sum()
            yield dispatch, fields
        first_step = 0


def check(stream: Stream, sets: RaggedSets, plan: Plan, *, epochs: int, start_step: int = 0) -> int:
    """Compares all of a stream; returns the number of dispatches."""
    count = 0
    whole = expected(sets, plan, epochs=epochs, start_step=start_step)
    for (dispatch, batches), (planned, fields) in zip(stream, whole, strict=True):
        assert dispatch == planned
        assert len(batches) == plan.replicas
        for replica, arrays in zip(batches, fields, strict=True):
            for name, tensor, array in zip(Batches._fields, replica, arrays, strict=True):
                np.testing.assert_array_equal(tensor.numpy(), array, err_msg=name)
        count += 1
    return count


@st.composite
def cases(draw: st.DrawFn) -> tuple[RaggedSets, Plan, int]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sets = random_sets(
        rng, rows=draw(st.integers(2, 40)), longest=draw(st.sampled_from([0, 3, 90]))
    )
    replicas = draw(st.sampled_from([1, 2]))
    plan = training_plan(
        sets.lengths,
        batch_size=replicas * draw(st.integers(1, 9)),
        replicas=replicas,
        steps_per_dispatch=draw(st.integers(1, 6)),
        seed=draw(st.integers(0, 100)),
    )
    return sets, plan, draw(st.integers(0, 2 * plan.steps_per_epoch))


# Each example traces a tf.data graph of its own, so fewer than for plain NumPy.
@settings(max_examples=15)
@given(cases())
def test_holds_what_the_plan_says_from_any_step(case: tuple[RaggedSets, Plan, int]) -> None:
    sets, plan, start_step = case
    stream = Stream(sets, plan, epochs=2, start_step=start_step)
    check(stream, sets, plan, epochs=2, start_step=start_step)


@pytest.mark.parametrize("replicas", [1, 2])
def test_several_epochs_incomplete_batches_and_dispatches(replicas: int) -> None:
    sets = random_sets(np.random.default_rng(), rows=43)
    plan = training_plan(
        sets.lengths, batch_size=6, replicas=replicas, steps_per_dispatch=3, seed=7
    )
    stream = Stream(sets, plan, epochs=3)
    assert check(stream, sets, plan, epochs=3) == 9  # 8 steps: 3, 3 and 2 in each epoch
    assert check(stream, sets, plan, epochs=3) == 9  # and again


def test_both_capacities_occur_and_hold_their_batches() -> None:
    lengths = np.full(512, 20)
    lengths[:3] = 5000
    splits = np.concatenate([[0], np.cumsum(lengths)])
    rng = np.random.default_rng()
    sets = RaggedSets(
        values=rng.integers(0, 500, splits[-1]),
        row_splits=splits,
        labels=rng.integers(0, 2, 512),
        num_tokens=500,
        name="outliers",
    )
    plan = training_plan(sets.lengths, batch_size=8, replicas=2, steps_per_dispatch=1, seed=0)
    stream = Stream(sets, plan, epochs=2)
    check(stream, sets, plan, epochs=2)
    capacities = {dispatch.capacity for dispatch, _ in stream}
    assert capacities == {plan.capacities.typical, plan.capacities.largest}
    assert len(capacities) == 2


@pytest.mark.parametrize(
    ("num_tokens", "dtype"),
    [(50, tf.uint16), (65_536, tf.uint16), (65_537, tf.int32), (2**31 - 1, tf.int32)],
)
def test_ids_travel_as_uint16_where_they_fit(num_tokens: int, dtype: tf.DType) -> None:
    ids = np.unique(np.array([0, 1, 32_767, 32_768, 65_535, 65_536, num_tokens - 1]))
    ids = ids[ids < num_tokens]
    sets = RaggedSets(
        values=ids,
        row_splits=np.arange(len(ids) + 1),
        labels=np.zeros(len(ids)),
        num_tokens=num_tokens,
        name="wide",
    )
    plan = evaluation_plan(sets.lengths, batch_size=2, replicas=1, steps_per_dispatch=4)
    ((_, (batches,)),) = Stream(sets, plan)
    assert batches.values.dtype == dtype
    assert [batches.row_splits.dtype, batches.labels.dtype, batches.num_rows.dtype] == (
        [tf.int32] * 3
    )
    held = np.concatenate(
        [
            values[: splits[-1]]
            for values, splits in zip(
                batches.values.numpy(), batches.row_splits.numpy(), strict=True
            )
        ]
    )
    np.testing.assert_array_equal(held, ids)


def test_shapes_are_the_same_in_every_dispatch_of_a_capacity() -> None:
    sets = random_sets(np.random.default_rng(1), rows=21)
    plan = training_plan(sets.lengths, batch_size=4, replicas=2, steps_per_dispatch=4, seed=0)
    shapes = {
        tuple(tuple(field.shape) for field in batches)
        for _, replicas in Stream(sets, plan, epochs=2)
        for batches in replicas
    }
    assert shapes == {((4, plan.capacities.typical), (4, 3), (4, 2), (4,))}


def test_a_finished_run_has_nothing_left() -> None:
    sets = random_sets(np.random.default_rng(), rows=10)
    plan = training_plan(sets.lengths, batch_size=5, replicas=1, steps_per_dispatch=2, seed=0)
    assert list(Stream(sets, plan, epochs=2, start_step=4)) == []


def test_another_data_sets_plan_is_refused() -> None:
    rng = np.random.default_rng()
    sets, other = random_sets(rng, rows=10), random_sets(rng, rows=11)
    plan = training_plan(other.lengths, batch_size=5, replicas=1, steps_per_dispatch=2, seed=0)
    with pytest.raises(AssertionError):
        Stream(sets, plan)
