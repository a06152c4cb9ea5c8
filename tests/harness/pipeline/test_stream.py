"""The stream against a NumPy reconstruction from the rows and the plan."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.pipeline.batch import Columns, StreamBatches
from harness.pipeline.capacity import capacities_for_any_order
from harness.pipeline.plan import (
    Dispatch,
    EpochPlan,
    Plan,
    epochs_from,
    evaluation_plan,
    training_plan,
)
from harness.pipeline.stream import Stream
from tests.harness.pipeline.rows import expected_share, random_examples
from tests.harness.random_sets import random_sets

ONE_DEVICE = ("/CPU:0",)


def expected(
    columns: Columns, plan: Plan, devices: tuple[str, ...], *, epochs: int, start_step: int = 0
) -> Iterator[tuple[Dispatch, list[dict[str, Any]]]]:
    """For each dispatch, and each device of it, the fields of its batches."""
    for epoch, first_step in epochs_from(plan, start_step=start_step, epochs=epochs):
        planned = EpochPlan(plan, epoch)
        step = first_step
        while step < plan.steps_per_epoch:
            end = plan.call_end(step)
            dispatch = planned.dispatch(step, end, origin=step)
            replicas = range(len(devices))
            yield dispatch, [fields_of(columns, plan, own, dispatch) for own in replicas]
            step = end


def fields_of(columns: Columns, plan: Plan, replica: int, dispatch: Dispatch) -> dict[str, Any]:
    """What `StreamBatches` says; padding behind the dispatch's steps."""
    (call,) = dispatch.calls
    S, b = plan.steps_per_call, plan.rows_per_replica
    ragged = {
        name: (np.zeros((S, capacity), np.int64), np.zeros((S, b + 1), np.int64))
        for name, capacity in zip(columns.ragged, call.capacity, strict=True)
    }
    dense = {
        name: np.broadcast_to(array[0], (S, b, *array.shape[1:])).copy()
        for name, array in columns.dense.items()
    }
    id_weights = {
        name: np.zeros(ragged[name][0].shape, np.float32)
        for name, sets in columns.ragged.items()
        if sets.weights is not None
    }
    real_rows, batch_rows = np.zeros(S, np.int64), np.zeros(S, np.int64)
    first = dispatch.step % plan.steps_per_epoch
    for step in range(dispatch.num_steps):
        place = {"epoch": dispatch.epoch, "step": first + step}
        held = expected_share(columns, plan, replica=replica, **place)
        for name, rows in held.ragged.items():
            values, row_splits = ragged[name]
            ids = [token_id for row in rows for token_id in row]
            values[step, : len(ids)] = ids
            row_splits[step] = np.cumsum([0, *map(len, rows)])
        for name, weights in held.id_weights.items():
            id_weights[name][step, : len(weights)] = weights
        for name, array in held.dense.items():
            dense[name][step] = array
        real_rows[step] = held.real_rows
        batch_rows[step] = held.batch_rows
    rows_of = {"real_rows": real_rows, "batch_rows": batch_rows}
    return {"ragged": ragged, "dense": dense, "id_weights": id_weights, **rows_of}


def check(
    examples: Examples,
    plan: Plan,
    *,
    devices: tuple[str, ...] = ONE_DEVICE,
    mapped: bool = False,
    **run: int,
) -> list[tuple[Dispatch, tuple[StreamBatches, ...]]]:
    """Compares all of a stream; returns what it was."""
    columns = Columns.of(examples)
    stream = list(Stream(columns, devices=devices, mapped=mapped).dispatches(plan, **run))
    whole = expected(columns, plan, devices, **({"epochs": 1} | run))
    for (dispatch, batches), (planned, fields) in zip(stream, whole, strict=True):
        assert dispatch == planned
        for own, arrays in zip(batches, fields, strict=True):
            tf.nest.map_structure(
                lambda tensor, array: np.testing.assert_array_equal(tensor.numpy(), array),
                [{n: tuple(r) for n, r in own.ragged.items()}, *own[1:]],
                list(arrays.values()),
            )
    return stream


@st.composite
def cases(draw: st.DrawFn) -> tuple[Examples, Plan, int]:
    examples = random_examples(
        np.random.default_rng(draw(st.integers(0, 2**32))),
        rows=draw(st.integers(2, 40)),
        longest=draw(st.sampled_from([0, 3, 90])),
        labels=draw(st.sampled_from(["classes", "numbers", "matrix", "ragged", "none"])),
        weights=draw(st.booleans()),
        id_weights=draw(st.booleans()),
    )
    plan = training_plan(
        Columns.of(examples).lengths,
        batch_size=draw(st.integers(1, 20)),
        replicas=1,
        steps_per_call=draw(st.integers(1, 6)),
        seed=draw(st.integers(0, 100)),
        epochs=2,
        in_blocks=draw(st.booleans()),
    )
    return examples, plan, draw(st.integers(0, 2 * plan.steps_per_epoch))


# Each example traces a tf.data graph of its own, so fewer than for plain NumPy.
@settings(max_examples=8)
@given(case=cases(), mapped=st.booleans())
def test_holds_what_the_plan_says_from_any_step(
    case: tuple[Examples, Plan, int], mapped: bool
) -> None:
    examples, plan, start_step = case
    check(examples, plan, epochs=2, start_step=start_step, mapped=mapped)


def test_every_device_gets_its_shares(logical_devices: list[str]) -> None:
    """By the way that copies to a GPU: one element of the stream for each device in turn."""
    devices = tuple(logical_devices)
    examples = random_examples(np.random.default_rng(), rows=43)
    lengths = Columns.of(examples).lengths
    plan = training_plan(lengths, batch_size=8, replicas=2, steps_per_call=2, seed=7, epochs=2)
    check(examples, plan, devices=devices, epochs=2, mapped=True)
    stream = check(examples, plan, devices=devices, epochs=2)
    assert len(stream) == 6
    for _, batches in stream:
        for device, own in zip(devices, batches, strict=True):
            assert all(tensor.device.endswith(device) for tensor in tf.nest.flatten(own))


def test_rows_can_be_divided_again_by_another_plan() -> None:
    sets = random_sets(np.random.default_rng(), rows=43)
    stream = Stream(Columns.of(Examples.of(sets)), devices=ONE_DEVICE)
    for batch_size, calls in ((6, 9), (43, 3)):  # 8 steps: 3, 3 and 2 in each epoch; 1 in each
        plan = training_plan(
            sets.lengths[None],
            batch_size=batch_size,
            replicas=1,
            steps_per_call=3,
            seed=7,
            epochs=3,
        )
        for _ in range(2):
            assert len(list(stream.dispatches(plan, epochs=3))) == calls


def test_both_capacities_occur_and_hold_their_batches() -> None:
    lengths = np.full(512, 20)
    lengths[:3] = 5000
    rng = np.random.default_rng()
    sets = RaggedSets(
        values=rng.integers(0, 500, lengths.sum(), dtype=np.int32),
        row_splits=np.cumsum([0, *lengths]),
        labels=rng.integers(0, 2, 512, dtype=np.int32),
        num_tokens=500,
        name="outliers",
    )
    plan = training_plan(
        lengths[None], batch_size=4, replicas=1, steps_per_call=1, seed=0, epochs=2
    )
    # As of a run that is too long to be looked at.
    plan = replace(plan, capacities=capacities_for_any_order(lengths[None], rows=4))
    stream = check(Examples.of(sets), plan, epochs=2)
    capacities = {call.capacity for dispatch, _ in stream for call in dispatch.calls}
    assert capacities == {plan.capacities.typical, plan.capacities.largest}
    assert len(capacities) == 2


def test_an_evaluations_last_call_is_filled_with_empty_batches() -> None:
    sets = random_sets(np.random.default_rng(), rows=9)
    plan = evaluation_plan(sets.lengths[None], batch_size=2, replicas=1, steps_per_call=3)
    _, (dispatch, (batches,)) = check(Examples.of(sets), plan)
    assert dispatch.num_steps == 3
    assert batches.batch_rows.numpy().tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("num_tokens", "dtype"),
    [(50, tf.uint16), (65_536, tf.uint16), (65_537, tf.uint32), (2**31 - 1, tf.uint32)],
)
def test_ids_travel_as_uint16_where_they_fit(num_tokens: int, dtype: tf.DType) -> None:
    ids = np.unique(np.array([0, 1, 32_767, 32_768, 65_535, 65_536, num_tokens - 1]))
    ids = ids[ids < num_tokens].astype(np.int32)
    sets = RaggedSets(
        values=ids, row_splits=np.arange(len(ids) + 1), num_tokens=num_tokens, name="wide"
    )
    plan = evaluation_plan(sets.lengths[None], batch_size=2, replicas=1, steps_per_call=4)
    ((_, (batches,)),) = check(Examples.of(sets), plan)
    types = [tensor.dtype for tensor in tf.nest.flatten(batches)]
    assert types == [dtype, tf.uint32, tf.uint16, tf.int64, tf.int64]


def test_shapes_are_the_same_in_every_dispatch_of_a_capacity() -> None:
    sets = random_sets(np.random.default_rng(1), rows=21)
    plan = training_plan(
        sets.lengths[None], batch_size=4, replicas=1, steps_per_call=4, seed=0, epochs=2
    )
    shapes = {
        tuple(tuple(tensor.shape) for tensor in tf.nest.flatten(batches))
        for _, (batches,) in check(Examples.of(sets), plan, epochs=2)
    }
    (capacity,) = plan.capacities.typical
    assert shapes == {((4, capacity), (4, 5), (4, 4), (4,), (4,))}
