"""Plans: every row once per epoch, however an epoch is cut into steps, dispatches and replicas."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.pipeline.plan import Dispatch, Plan, evaluation_plan, training_plan


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    lengths = np.array(draw(st.lists(st.integers(0, 400), min_size=1, max_size=50)))
    replicas = draw(st.integers(1, 4))
    return training_plan(
        lengths,
        batch_size=replicas * draw(st.integers(1, 20)),
        replicas=replicas,
        steps_per_dispatch=draw(st.integers(1, 9)),
        seed=draw(st.integers(0, 2**31 - 1)),
    )


def batches_of(plan: Plan, epoch: int) -> np.ndarray:
    """Rows of each step, [steps, B]."""
    return plan.order(epoch).reshape(-1, plan.batch_size)


@given(plans(), st.integers(0, 50))
def test_visits_every_row_once_and_pads_behind(plan: Plan, epoch: int) -> None:
    order = plan.order(epoch)
    assert len(order) == plan.steps_per_epoch * plan.batch_size
    real, padding = order[: plan.num_rows], order[plan.num_rows :]
    assert sorted(real.tolist()) == list(range(plan.num_rows))
    assert (padding == plan.num_rows).all()
    assert len(padding) < plan.batch_size


@given(plans(), st.integers(0, 50), st.data())
def test_dispatches_say_what_their_steps_hold(plan: Plan, epoch: int, data: st.DataObject) -> None:
    first_step = data.draw(st.integers(0, plan.steps_per_epoch))
    batches = batches_of(plan, epoch)
    step = first_step
    for dispatch in plan.dispatches(epoch, first_step=first_step):
        held = batches[step : step + dispatch.num_steps]
        real = held[held < plan.num_rows]
        assert dispatch.epoch == epoch
        assert dispatch.step == epoch * plan.steps_per_epoch + step
        assert 1 <= dispatch.num_steps <= plan.steps_per_dispatch
        assert dispatch.examples == len(real) > 0
        assert dispatch.tokens == plan.lengths[real].sum()
        step += dispatch.num_steps
    assert step == plan.steps_per_epoch


@given(plans(), st.integers(0, 50))
def test_every_replicas_batch_fits_its_dispatch(plan: Plan, epoch: int) -> None:
    lengths = np.append(plan.lengths, 0)[batches_of(plan, epoch)]
    nnz = lengths.reshape(plan.steps_per_epoch, plan.replicas, -1).sum(axis=2)
    step = 0
    for dispatch in plan.dispatches(epoch):
        largest = nnz[step : step + dispatch.num_steps].max()
        assert dispatch.capacity == plan.capacities.holding(int(largest)) >= largest
        step += dispatch.num_steps


@given(plans(), st.integers(0, 50))
def test_only_an_epochs_last_dispatch_is_short(plan: Plan, epoch: int) -> None:
    dispatches = list(plan.dispatches(epoch))
    assert len(dispatches) == plan.dispatches_per_epoch
    assert all(d.num_steps == plan.steps_per_dispatch for d in dispatches[:-1])


@given(plans(), st.data())
def test_resumed_from_any_dispatch_it_goes_on_as_it_would_have(
    plan: Plan, data: st.DataObject
) -> None:
    whole = [list(plan.dispatches(epoch)) for epoch in (0, 1)]
    epoch, done = data.draw(
        st.sampled_from([(e, n) for e, d in enumerate(whole) for n in range(len(d))])
    )
    first_step = done * plan.steps_per_dispatch
    assert list(plan.dispatches(epoch, first_step=first_step)) == whole[epoch][done:]


@given(plans(), st.integers(0, 50))
def test_replicas_and_dispatches_do_not_change_the_rows(plan: Plan, epoch: int) -> None:
    for replicas, steps in itertools.product(range(1, 5), (1, 7)):
        if plan.batch_size % replicas == 0:
            other = training_plan(
                plan.lengths,
                batch_size=plan.batch_size,
                replicas=replicas,
                steps_per_dispatch=steps,
                seed=plan.seed or 0,
            )
            np.testing.assert_array_equal(other.order(epoch), plan.order(epoch))


def test_epochs_differ() -> None:
    plan = training_plan(np.ones(30), batch_size=10, replicas=1, steps_per_dispatch=2, seed=1)
    assert plan.order(0).tolist() != plan.order(1).tolist()


def test_evaluation_keeps_the_stored_order_and_one_capacity() -> None:
    lengths = np.array([100, 200, 0, 300, 5])
    plan = evaluation_plan(lengths, batch_size=4, replicas=2, steps_per_dispatch=8)
    assert plan.order(0).tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
    assert plan.capacities.typical == plan.capacities.largest == 384
    assert list(plan.dispatches(0)) == [
        Dispatch(epoch=0, step=0, num_steps=2, examples=5, tokens=605, capacity=384)
    ]


def test_evaluation_of_fewer_rows_than_a_batch() -> None:
    plan = evaluation_plan(np.array([3]), batch_size=500, replicas=1, steps_per_dispatch=4)
    (dispatch,) = plan.dispatches(0)
    assert (dispatch.num_steps, dispatch.examples, dispatch.tokens) == (1, 1, 3)
