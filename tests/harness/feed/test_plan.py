"""Plans: every row once an epoch, however it is cut into steps, calls, dispatches and replicas."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.feed.plan import (
    Dispatch,
    EpochPlan,
    Plan,
    call_length,
    epochs_from,
    evaluation_plan,
    power_of_two,
    prediction_plan,
    shares_of,
)

EPOCHS = 4


@st.composite
def row_lengths(draw: st.DrawFn) -> np.ndarray:
    """Draws the row lengths of 0 to 2 ragged columns, [columns, rows]."""
    shape = draw(st.integers(0, 2)), draw(st.integers(1, 50))
    return draw(arrays.arrays(np.int64, shape, elements=st.integers(0, 400)))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draws training plans, some with two capacities, like those of a run too long to look at
    beforehand; the smaller is a random one, so that both occur."""
    lengths = draw(row_lengths())
    replicas = draw(st.integers(1, 4))
    plan = Plan(
        lengths=lengths,
        batch_size=replicas * draw(st.integers(1, 20)),
        replicas=replicas,
        steps_per_call=draw(st.integers(1, 9)),
        seed=draw(st.integers(0, 2**31 - 1)),
        epochs=EPOCHS,
    )
    if draw(st.booleans()):
        capacities = {
            rows: own._replace(typical=tuple(draw(st.integers(1, n)) for n in own.largest))
            for rows, own in plan.capacities.items()
        }
        object.__setattr__(plan, "capacities", capacities)
    return plan


epochs = st.integers(0, EPOCHS - 1)


def batches_of(plan: Plan, epoch: int) -> list[np.ndarray]:
    """Returns the rows of each step."""
    return np.split(plan.order(epoch), range(plan.batch_size, plan.num_rows, plan.batch_size))


def largest_shares(plan: Plan, epoch: int) -> np.ndarray:
    """Returns the ids of the share with the most ids, for each column and step."""
    most = [
        np.max([plan.lengths[:, own].sum(axis=1) for own in np.array_split(rows, plan.replicas)], 0)
        for rows in batches_of(plan, epoch)
    ]
    return np.stack(most, axis=1)


def dispatches(
    plan: Plan, *, start_step: int, epochs: int, calls: Iterator[int]
) -> Iterator[Dispatch]:
    """Yields a run's dispatches, each of the next number of calls."""
    for epoch, step in epochs_from(plan, start_step=start_step, epochs=epochs):
        planned = EpochPlan(plan, epoch)
        while step < plan.steps_per_epoch:
            end = plan.dispatch_end(step, calls=next(calls))
            yield planned.dispatch(step, end)
            step = end


@given(st.integers(0, 30), st.integers(1, 12))
def test_shares_differ_by_a_row_at_most_and_the_first_are_larger(rows: int, replicas: int) -> None:
    shares = shares_of(rows, replicas)
    assert (len(shares), sum(shares)) == (replicas, rows)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] - shares[-1] <= 1


@given(plans(), epochs)
def test_visits_every_row_once_in_batches_that_replicas_share_in_order(
    plan: Plan, epoch: int
) -> None:
    order = plan.order(epoch)
    assert sorted(order.tolist()) == list(range(plan.num_rows))
    divided = EpochPlan(plan, epoch).batches
    assert divided.keys() == plan.capacities.keys()
    steps = [step for shares in divided.values() for step in zip(*shares, strict=True)]
    assert len(steps) == plan.steps_per_epoch
    for shares, batch in zip(steps, batches_of(plan, epoch), strict=True):
        sizes = shares_of(len(batch), plan.replicas)
        held = [own for own, size in zip(shares, sizes, strict=True) if size]
        np.testing.assert_array_equal(np.concatenate(held), batch)
        # A replica without a row has one to compute on: of the same batch.
        assert all(own.tolist() == [batch[0]] for own in shares[len(held) :])


@given(plans(), st.data())
def test_a_run_takes_each_step_once_by_the_programs_it_compiled(
    plan: Plan, data: st.DataObject
) -> None:
    """The run may begin at any step, and its dispatches have any number of calls."""
    start_step = data.draw(st.integers(0, EPOCHS * plan.steps_per_epoch))
    calls_of_dispatches = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    programs = plan.programs(start_step=start_step)
    assert len(programs) == len(set(programs)) <= 2 * 4
    sizes = [own.rows for own in programs]
    assert sizes == sorted(sizes, reverse=True), "whole batches first"
    step = start_step
    calls = itertools.cycle(calls_of_dispatches)
    for dispatch in dispatches(plan, start_step=start_step, epochs=EPOCHS, calls=calls):
        assert dispatch.step == step
        ids, batches = (of(plan, dispatch.epoch) for of in (largest_shares, batches_of))
        for call in dispatch.calls:
            epoch, first = divmod(step, plan.steps_per_epoch)
            assert epoch == dispatch.epoch
            assert call.first == (first if call.rows == plan.batch_size else 0)
            assert replace(call, first=0) in programs
            steps = slice(first, first + call.num_steps)
            assert {len(rows) for rows in batches[steps]} == {call.rows}
            held = ids[:, steps].max(axis=1)
            assert call.capacity == plan.capacities[call.rows].holding(held)
            assert (held <= call.capacity).all()
            step += call.num_steps
        assert step == dispatch.step + dispatch.num_steps
    assert step == EPOCHS * plan.steps_per_epoch


@given(plans(), epochs, st.data())
def test_dispatches_say_what_their_steps_hold(plan: Plan, epoch: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, plan.steps_per_epoch - 1))
    end = data.draw(st.integers(start + 1, plan.steps_per_epoch))
    origin = data.draw(st.integers(0, start))
    planned = EpochPlan(plan, epoch)
    dispatch = planned.dispatch(start, end, origin=origin)
    rows = np.concatenate(batches_of(plan, epoch)[start:end])
    assert dispatch.epoch == epoch
    assert dispatch.step == epoch * plan.steps_per_epoch + start
    assert dispatch.num_steps == end - start == sum(call.num_steps for call in dispatch.calls)
    assert dispatch.examples == len(rows) > 0
    assert dispatch.tokens == plan.lengths[:, rows].sum()
    for call in dispatch.calls:
        skipped = origin if call.rows == plan.batch_size else 0
        steps = slice(skipped + call.first, skipped + call.first + call.num_steps)
        found = np.concatenate([own[steps] for own in planned.batches[call.rows]], axis=1)
        if call.rows >= plan.replicas:
            np.testing.assert_array_equal(found.reshape(-1), rows[: found.size])
        rows = rows[call.num_steps * call.rows :]
    assert not rows.size


@given(plans(), epochs)
def test_only_the_last_calls_of_each_size_are_short_and_no_program_is_spare(
    plan: Plan, epoch: int
) -> None:
    whole = EpochPlan(plan, epoch).dispatch(0, plan.steps_per_epoch)
    *full, _ = [call.num_steps for call in whole.calls if call.rows == plan.batch_size] or [0]
    assert all(num_steps == plan.steps_per_call for num_steps in full)
    last = [call.num_steps for call in whole.calls if call.rows < plan.batch_size]
    assert last == [1] * (plan.num_rows % plan.batch_size > 0)
    kinds = {(call.rows, call.num_steps) for call in whole.calls}
    assert {(call.rows, call.num_steps) for call in plan.programs()} == kinds


@given(plans(), st.data())
def test_resumed_within_a_dispatch_it_soon_meets_those_of_the_uninterrupted_run(
    plan: Plan, data: st.DataObject
) -> None:
    start_step = data.draw(st.integers(0, plan.steps_per_epoch - 1))
    whole, resumed = (
        list(dispatches(plan, start_step=start, epochs=1, calls=itertools.repeat(1)))
        for start in (0, start_step)
    )
    assert resumed[1:] == [dispatch for dispatch in whole if dispatch.step > start_step]


@pytest.mark.parametrize("repeating", [False, True])
def test_epochs_differ_until_they_repeat(repeating: bool) -> None:
    plan = Plan(
        lengths=np.ones([1, 30], np.int64),
        batch_size=10,
        replicas=1,
        steps_per_call=2,
        seed=1,
        epochs=3,
        repeating=repeating,
    )
    orders = [tuple(plan.order(epoch).tolist()) for epoch in range(6)]
    assert len(set(orders)) == (3 if repeating else 6)
    assert (orders[3:] == orders[:3]) is repeating


def test_a_run_that_was_looked_at_has_the_one_capacity_that_it_needs() -> None:
    """The run has one capacity for each size of batches."""
    lengths = np.random.default_rng().integers(0, 3_000, [2, 207])
    plan = Plan(lengths=lengths, batch_size=20, replicas=2, steps_per_call=5, seed=3, epochs=4)
    assert list(plan.capacities) == [20, 7]
    ids = np.array([largest_shares(plan, epoch) for epoch in range(4)])
    for own, needed in zip(plan.capacities.values(), (ids[..., :10], ids[..., 10:]), strict=True):
        assert own.typical == own.largest
        spare = np.array(own.largest) - needed.max(axis=(0, 2))
        assert ((spare >= 0) & (spare < 128)).all()


def test_a_run_too_long_to_be_looked_at_has_a_second_capacity_for_what_may_come() -> None:
    lengths = np.full([1, 2**20 + 1], 1)  # two epochs are beyond the limit
    lengths[0, :100] = 10_000
    asked: dict[str, Any] = {"batch_size": 512, "replicas": 1, "steps_per_call": 9, "seed": 3}
    both = [Plan(lengths=lengths, epochs=n, **asked).capacities for n in (1, 3)]
    for rows, longest in ((512, 100), (1, 1)):  # whole batches, and the last one
        seen, unseen = (capacities[rows] for capacities in both)
        assert seen.typical == seen.largest
        assert seen.typical <= unseen.typical <= unseen.largest
        assert unseen.largest[0] >= longest * 10_000 + rows - longest
    assert both[1][512].typical < both[1][512].largest


@given(row_lengths(), st.integers(1, 4), st.integers(1, 9), st.integers(1, 60))
def test_evaluation_is_in_stored_order_by_few_programs(
    lengths: np.ndarray, replicas: int, share: int, steps_per_call: int
) -> None:
    batch_size = replicas * share
    plan = evaluation_plan(
        lengths, batch_size=batch_size, replicas=replicas, steps_per_call=steps_per_call
    )
    rows = lengths.shape[1]
    assert plan.order(0).tolist() == list(range(rows))
    whole = EpochPlan(plan, 0).dispatch(0, plan.steps_per_epoch)
    assert (whole.examples, whole.tokens) == (rows, lengths.sum())
    assert {replace(call, first=0) for call in whole.calls} == set(plan.programs())
    assert all(call.num_steps <= steps_per_call for call in whole.calls)
    # Calls of one length, unless that would make twice as many of them.
    of_whole = [call.num_steps for call in whole.calls if call.rows == batch_size]
    steps = rows // batch_size
    assert sum(of_whole) == steps
    assert len(of_whole) < 2 * max(1, -(-steps // steps_per_call))
    assert len(plan.programs()) - (steps < plan.steps_per_epoch) <= 2


@pytest.mark.parametrize(
    ("most", "steps", "length"), [(7, 7, 7), (6, 8, 4), (4, 6, 3), (6, 9, 3), (5, 7, 5), (7, 9, 7)]
)
def test_a_call_has_a_length_that_divides_the_steps_if_one_is_near(
    most: int, steps: int, length: int
) -> None:
    assert call_length(most, steps) == length


@given(row_lengths(), st.integers(1, 4), st.integers(1, 200))
def test_predictions_of_many_sizes_have_the_same_programs(
    lengths: np.ndarray, replicas: int, batch_size: int
) -> None:
    plan = prediction_plan(lengths, batch_size=batch_size, replicas=replicas)
    rows, order = lengths.shape[1], plan.order(0)
    assert order[:rows].tolist() == list(range(rows))
    in_last_batch = lengths[:, rows - rows % plan.batch_size :].sum(axis=0)
    assert (lengths[:, order[rows:]].sum(axis=0) == in_last_batch.min(initial=2**62)).all()
    whole = EpochPlan(plan, 0).dispatch(0, plan.steps_per_epoch)
    assert {replace(call, first=0) for call in whole.calls} == set(plan.programs())
    for call in whole.calls:
        sizes = {power_of_two(call.rows), plan.batch_size}
        assert call.rows in sizes
        assert call.num_steps == 1
        assert all(power_of_two(own) == own for own in call.capacity)
    assert len(order) < rows + plan.batch_size
