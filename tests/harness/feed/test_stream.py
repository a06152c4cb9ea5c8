"""The stream against a NumPy reconstruction from the rows and the plan."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.errors import InputError
from harness.data import store
from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.feed.batch import BatchesByRows, Columns
from harness.feed.capacity import capacities_for_any_order
from harness.feed.plan import (
    Dispatch,
    EpochPlan,
    Plan,
    epochs_from,
    evaluation_plan,
    shares_of,
    training_plan,
)
from harness.feed.stream import Stream
from tests.harness.feed.rows import expected_share, random_examples
from tests.harness.random_sets import random_sets

ONE_DEVICE = ("/CPU:0",)


def expected(
    columns: Columns, plan: Plan, devices: tuple[str, ...], *, epochs: int, start_step: int = 0
) -> Iterator[tuple[Dispatch, dict[int, list[dict[str, Any]]]]]:
    """Yields each dispatch, and the fields of its batches by their size and device."""
    replicas = range(len(devices))
    for epoch, first_step in epochs_from(plan, start_step=start_step, epochs=epochs):
        planned = EpochPlan(plan, epoch)
        step = first_step
        while step < plan.steps_per_epoch:
            end = plan.dispatch_end(step)
            dispatch = planned.dispatch(step, end, origin=step)
            yield (
                dispatch,
                {
                    rows: [fields_of(columns, plan, own, dispatch, rows) for own in replicas]
                    for rows in plan.capacities
                },
            )
            step = end


def fields_of(
    columns: Columns, plan: Plan, replica: int, dispatch: Dispatch, rows: int
) -> dict[str, Any]:
    """Returns the fields of `StreamBatches` for the batches of so many rows, with zeros behind the
    dispatch's steps."""
    is_last = rows < plan.batch_size
    S = 1 if is_last else min(plan.steps_per_call, plan.whole_steps)
    b = max(1, shares_of(rows, plan.replicas)[replica])
    capacities = [call.capacity for call in dispatch.calls if call.rows == rows]
    (capacity,) = capacities or [(0,) * len(columns.ragged)]
    ragged = {
        name: {"values": np.zeros((S, own), np.int64), "row_splits": np.zeros((S, b + 1), np.int64)}
        for name, own in zip(columns.ragged, capacity, strict=True)
    }
    for name, sets in columns.ragged.items():
        if sets.weights is not None:
            ragged[name]["weights"] = np.zeros(ragged[name]["values"].shape, np.float32)
    dense = {
        name: np.zeros((S, b, *array.shape[1:]), array.dtype)
        for name, array in columns.dense.items()
    }
    first = dispatch.step % plan.steps_per_epoch
    steps = range(first, first + dispatch.num_steps)
    for place, step in enumerate(s for s in steps if (s == plan.whole_steps) == is_last):
        held = expected_share(columns, plan, replica=replica, epoch=dispatch.epoch, step=step)
        for name, own in held.ragged.items():
            ids = [token_id for row in own for token_id in row]
            ragged[name]["values"][place, : len(ids)] = ids
            ragged[name]["row_splits"][place] = np.cumsum([0, *map(len, own)])
        for name, weights in held.id_weights.items():
            ragged[name]["weights"][place, : len(weights)] = weights
        for name, array in held.dense.items():
            dense[name][place] = array
    return {"ragged": ragged, "dense": dense}


def check(
    examples: Examples,
    plan: Plan,
    *,
    devices: tuple[str, ...] = ONE_DEVICE,
    mapped: bool = False,
    **run: int,
) -> list[tuple[Dispatch, BatchesByRows]]:
    """Compares all of a stream; returns the stream."""
    columns = Columns.of(examples)
    stream = list(Stream(columns, devices=devices, mapped=mapped).dispatches(plan, **run))
    whole = expected(columns, plan, devices, **({"epochs": 1} | run))
    for (dispatch, batches), (planned, fields) in zip(stream, whole, strict=True):
        assert dispatch == planned
        assert batches.keys() == fields.keys()
        for rows, of_devices in batches.items():
            for own, arrays in zip(of_devices, fields[rows], strict=True):
                tf.nest.map_structure(
                    lambda tensor, array: np.testing.assert_array_equal(tensor.numpy(), array),
                    list(own),
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


@pytest.mark.parametrize("last", [0, 1, 3])
def test_every_device_gets_its_shares(logical_devices: list[str], last: int) -> None:
    """The stream is read as for copies to a GPU: one element for each device in turn. The last
    batch's shares differ in size, and one may have no row."""
    devices = tuple(logical_devices)
    examples = random_examples(np.random.default_rng(), rows=40 + last)
    lengths = Columns.of(examples).lengths
    plan = training_plan(lengths, batch_size=8, replicas=2, steps_per_call=2, seed=7, epochs=2)
    check(examples, plan, devices=devices, epochs=2, mapped=True)
    stream = check(examples, plan, devices=devices, epochs=2)
    assert len(stream) == 6
    for _, batches in stream:
        for of_devices in batches.values():
            for device, own in zip(devices, of_devices, strict=True):
                assert all(tensor.device.endswith(device) for tensor in tf.nest.flatten(own))


def test_rows_can_be_divided_again_by_another_plan() -> None:
    sets = random_sets(np.random.default_rng(), rows=43)
    stream = Stream(Columns.of(Examples.of(sets)), devices=ONE_DEVICE)
    # 8 steps an epoch, in dispatches of 3, 3 and 2; 1; 2, the last batch's too.
    for batch_size, calls in ((6, 9), (43, 3), (30, 3)):
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
    any_order = capacities_for_any_order(lengths[None], rows=4)
    plan = replace(plan, capacities={4: any_order})
    stream = check(Examples.of(sets), plan, epochs=2)
    capacities = {call.capacity for dispatch, _ in stream for call in dispatch.calls}
    assert capacities == {any_order.typical, any_order.largest}
    assert len(capacities) == 2


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
    for _, batches in check(Examples.of(sets), plan):
        types = [tensor.dtype for tensor in tf.nest.flatten(batches)]
        assert types == [tf.uint32, dtype, tf.uint32] * len(batches)


def test_a_mapped_file_that_changes_is_said(tmp_path: Path) -> None:
    store.save(random_sets(np.random.default_rng(0), rows=400), tmp_path / "rows")
    columns = Columns.of(Examples.of(store.load(tmp_path / "rows")))
    plan = training_plan(
        columns.lengths, batch_size=10, replicas=1, steps_per_call=1, seed=0, epochs=1
    )
    stream = Stream(columns, devices=ONE_DEVICE, mapped=True)
    dispatches = stream.dispatches(plan)
    next(dispatches)
    os.utime(tmp_path / "rows" / "values.npy")
    with pytest.raises(InputError, match=r"values\.npy was changed while it was in use"):
        list(dispatches)
