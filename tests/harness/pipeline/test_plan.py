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

from harness.pipeline.capacity import Capacities
from harness.pipeline.plan import (
    Call,
    Dispatch,
    EpochPlan,
    Plan,
    epochs_from,
    evaluation_plan,
    training_plan,
)

EPOCHS = 4


@st.composite
def row_lengths(draw: st.DrawFn) -> np.ndarray:
    """Of 0 to 2 ragged columns, [columns, rows]."""
    shape = draw(st.integers(0, 2)), draw(st.integers(1, 50))
    return draw(arrays.arrays(np.int64, shape, elements=st.integers(0, 400)))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Training plans; some with two capacities, as of a run that is too long to be looked at, of
    which the smaller is any, so that both occur."""
    lengths = draw(row_lengths())
    replicas = draw(st.integers(1, 4))
    plan = training_plan(
        lengths,
        batch_size=replicas * draw(st.integers(1, 20)),
        replicas=replicas,
        steps_per_call=draw(st.integers(1, 9)),
        seed=draw(st.integers(0, 2**31 - 1)),
        epochs=EPOCHS,
    )
    if draw(st.booleans()):
        largest = plan.capacities.largest
        typical = tuple(draw(st.integers(1, own)) for own in largest)
        capacities = Capacities(typical=typical, largest=largest)
        return replace(plan, capacities=capacities)
    return plan


epochs = st.integers(0, EPOCHS - 1)


def batches_of(plan: Plan, epoch: int) -> np.ndarray:
    """Rows of each step, [steps, B]."""
    return plan.order(epoch).reshape(-1, plan.batch_size)


def largest_shares(plan: Plan, epoch: int) -> np.ndarray:
    """Ids of the share that holds most of them, for each column and step."""
    lengths = np.pad(plan.lengths, [(0, 0), (0, 1)])[:, batches_of(plan, epoch)]
    rows = plan.batch_size // plan.replicas
    shape = (len(lengths), plan.steps_per_epoch, plan.replicas, rows)
    return lengths.reshape(shape).sum(axis=3).max(axis=2)


def dispatches(
    plan: Plan, *, start_step: int, epochs: int, calls: Iterator[int]
) -> Iterator[Dispatch]:
    """A run's dispatches, each of the next number of calls."""
    for epoch, step in epochs_from(plan, start_step=start_step, epochs=epochs):
        planned = EpochPlan(plan, epoch)
        while step < plan.steps_per_epoch:
            end = plan.call_end(step, calls=next(calls))
            yield planned.dispatch(step, end)
            step = end


@given(plans(), epochs)
def test_visits_every_row_once_and_pads_behind(plan: Plan, epoch: int) -> None:
    order = plan.order(epoch).reshape(-1)
    assert len(order) == plan.steps_per_epoch * plan.batch_size
    real, padding = order[: plan.num_rows], order[plan.num_rows :]
    assert sorted(real.tolist()) == list(range(plan.num_rows))
    assert (padding == plan.num_rows).all()
    assert len(padding) < plan.batch_size


@given(plans(), st.data())
def test_a_run_takes_each_step_once_by_the_programs_it_compiled(
    plan: Plan, data: st.DataObject
) -> None:
    """From any step on, in dispatches of any number of calls."""
    start_step = data.draw(st.integers(0, EPOCHS * plan.steps_per_epoch))
    calls_of_dispatches = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    programs = plan.programs(start_step=start_step)
    assert len(programs) == len(set(programs)) <= 3 * len(plan.capacities.all)
    step = start_step
    calls = itertools.cycle(calls_of_dispatches)
    for dispatch in dispatches(plan, start_step=start_step, epochs=EPOCHS, calls=calls):
        assert dispatch.step == step
        shares = largest_shares(plan, dispatch.epoch)
        for call in dispatch.calls:
            epoch, first = divmod(step, plan.steps_per_epoch)
            assert (epoch, first) == (dispatch.epoch, call.first)
            assert (call.num_steps, call.capacity) in programs
            ids = shares[:, first : first + call.num_steps].max(axis=1)
            assert call.capacity == plan.capacities.holding(ids)
            assert (ids <= call.capacity).all()
            step += call.num_steps
        assert step == dispatch.step + dispatch.num_steps
    assert step == EPOCHS * plan.steps_per_epoch


@given(plans(), epochs, st.data())
def test_dispatches_say_what_their_steps_hold(plan: Plan, epoch: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, plan.steps_per_epoch - 1))
    end = data.draw(st.integers(start + 1, plan.steps_per_epoch))
    origin = data.draw(st.integers(0, start))
    dispatch = EpochPlan(plan, epoch).dispatch(start, end, origin=origin)
    held = batches_of(plan, epoch)[start:end]
    real = held[held < plan.num_rows]
    assert dispatch.epoch == epoch
    assert dispatch.step == epoch * plan.steps_per_epoch + start
    assert dispatch.num_steps == end - start == sum(call.num_steps for call in dispatch.calls)
    assert dispatch.examples == len(real) > 0
    assert dispatch.tokens == plan.lengths[:, real].sum()
    assert dispatch.calls[0].first == start - origin


@given(plans(), epochs)
def test_real_rows_are_counted_for_each_share(plan: Plan, epoch: int) -> None:
    planned = EpochPlan(plan, epoch)
    rows = batches_of(plan, epoch).reshape(plan.steps_per_epoch, plan.replicas, -1)
    np.testing.assert_array_equal(planned.real_rows, (rows < plan.num_rows).sum(axis=2))
    assert planned.real_rows.sum() == plan.num_rows


@given(plans(), epochs)
def test_only_an_epochs_last_call_is_short_and_no_program_is_spare(plan: Plan, epoch: int) -> None:
    whole = EpochPlan(plan, epoch).dispatch(0, plan.steps_per_epoch)
    assert all(call.num_steps == plan.steps_per_call for call in whole.calls[:-1])
    assert {steps for steps, _ in plan.programs()} == {call.num_steps for call in whole.calls}


@given(plans(), st.data())
def test_resumed_after_any_call_it_goes_on_as_it_would_have(
    plan: Plan, data: st.DataObject
) -> None:
    whole = list(dispatches(plan, start_step=0, epochs=2, calls=itertools.repeat(1)))
    done = data.draw(st.integers(0, len(whole) - 1))
    start_step = whole[done].step
    resumed = dispatches(plan, start_step=start_step, epochs=2, calls=itertools.repeat(1))
    assert list(resumed) == whole[done:]
    assert set(plan.programs(start_step=start_step)) <= set(plan.programs())


@given(plans(), st.data())
def test_resumed_within_a_call_it_soon_meets_the_calls_of_the_uninterrupted_run(
    plan: Plan, data: st.DataObject
) -> None:
    start_step = data.draw(st.integers(0, plan.steps_per_epoch - 1))
    whole, resumed = (
        list(dispatches(plan, start_step=start, epochs=1, calls=itertools.repeat(1)))
        for start in (0, start_step)
    )
    assert resumed[1:] == [dispatch for dispatch in whole if dispatch.step > start_step]


@given(plans(), epochs)
def test_replicas_and_calls_do_not_change_the_rows(plan: Plan, epoch: int) -> None:
    for replicas, steps in itertools.product(range(1, 5), (1, 7)):
        if plan.batch_size % replicas == 0:
            other = training_plan(
                plan.lengths,
                batch_size=plan.batch_size,
                replicas=replicas,
                steps_per_call=steps,
                seed=plan.seed or 0,
                epochs=1,
            )
            np.testing.assert_array_equal(batches_of(other, epoch), batches_of(plan, epoch))


@pytest.mark.parametrize("repeating", [False, True])
def test_epochs_differ_until_they_repeat(repeating: bool) -> None:
    plan = training_plan(
        np.ones([1, 30], np.int64),
        batch_size=10,
        replicas=1,
        steps_per_call=2,
        seed=1,
        epochs=3,
        repeating=repeating,
    )
    orders = [tuple(plan.order(epoch).reshape(-1).tolist()) for epoch in range(6)]
    assert len(set(orders)) == (3 if repeating else 6)
    assert (orders[3:] == orders[:3]) is repeating


def test_a_run_that_was_looked_at_has_the_one_capacity_that_it_needs() -> None:
    lengths = np.random.default_rng().integers(0, 3_000, [2, 200])
    plan = training_plan(lengths, batch_size=20, replicas=2, steps_per_call=5, seed=3, epochs=4)
    needed = np.max([largest_shares(plan, epoch).max(axis=1) for epoch in range(4)], axis=0)
    assert plan.capacities.typical == plan.capacities.largest
    spare = np.array(plan.capacities.largest) - needed
    assert ((spare >= 0) & (spare < 128)).all()


def test_a_run_too_long_to_be_looked_at_has_a_second_capacity_for_what_may_come() -> None:
    lengths = np.full([1, 2**20 + 1], 1)  # two epochs are beyond the limit
    lengths[0, :100] = 10_000
    asked: dict[str, Any] = {"batch_size": 512, "replicas": 1, "steps_per_call": 9, "seed": 3}
    (seen, unseen) = (training_plan(lengths, epochs=n, **asked).capacities for n in (1, 3))
    assert seen.typical == seen.largest
    assert seen.typical <= unseen.typical < unseen.largest
    assert unseen.largest[0] >= 100 * 10_000 + 412


def test_a_call_is_no_longer_than_an_epoch() -> None:
    plan = training_plan(
        np.ones([1, 30], np.int64), batch_size=10, replicas=1, steps_per_call=99, seed=1, epochs=1
    )
    assert plan.steps_per_call == 3
    assert plan.programs() == ((3, (128,)),)


@given(row_lengths(), st.integers(1, 4), st.integers(1, 9), st.integers(1, 60))
def test_evaluation_is_one_program_of_whole_calls_in_stored_order(
    lengths: np.ndarray, replicas: int, share: int, steps_per_call: int
) -> None:
    batch_size = replicas * share
    plan = evaluation_plan(
        lengths, batch_size=batch_size, replicas=replicas, steps_per_call=steps_per_call
    )
    ((num_steps, capacity),) = plan.programs()
    assert num_steps <= steps_per_call
    whole = EpochPlan(plan, 0).dispatch(0, plan.steps_per_epoch)
    assert {(call.num_steps, call.capacity) for call in whole.calls} == {(num_steps, capacity)}
    assert (largest_shares(plan, 0).max(axis=1) <= capacity).all()
    rows = lengths.shape[1]
    assert plan.order(0).reshape(-1)[:rows].tolist() == list(range(rows))
    assert (plan.order(0).reshape(-1)[rows:] == rows).all()
    assert (whole.examples, whole.tokens) == (rows, lengths.sum())
    # No more calls than steps need, and less than an empty batch for each of them.
    steps = -(-rows // batch_size)
    assert len(whole.calls) == -(-steps // steps_per_call)
    assert 0 <= plan.steps_per_epoch - steps < len(whole.calls)


def test_evaluation_of_a_few_rows() -> None:
    plan = evaluation_plan(
        np.array([[100, 200, 0, 300, 5]]), batch_size=4, replicas=2, steps_per_call=8
    )
    assert plan.order(0).tolist() == [[[0, 1], [2, 3]], [[4, 5], [5, 5]]]
    assert plan.capacities == Capacities(typical=(384,), largest=(384,))
    assert EpochPlan(plan, 0).dispatch(0, 2) == Dispatch(
        epoch=0,
        step=0,
        num_steps=2,
        examples=5,
        tokens=605,
        calls=(Call(first=0, num_steps=2, capacity=(384,)),),
    )


def test_evaluation_of_fewer_rows_than_a_batch() -> None:
    plan = evaluation_plan(np.array([[3]]), batch_size=500, replicas=1, steps_per_call=4)
    dispatch = EpochPlan(plan, 0).dispatch(0, plan.steps_per_epoch)
    assert (dispatch.num_steps, dispatch.examples, dispatch.tokens) == (1, 1, 3)


def test_a_finished_run_has_no_epochs_left() -> None:
    plan = evaluation_plan(np.ones([1, 10], np.int64), batch_size=5, replicas=1, steps_per_call=1)
    assert list(epochs_from(plan, start_step=1, epochs=3)) == [(0, 1), (1, 0), (2, 0)]
    assert list(epochs_from(plan, start_step=6, epochs=3)) == []
