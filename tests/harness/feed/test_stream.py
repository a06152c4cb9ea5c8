"""The stream against a NumPy reconstruction from the rows and the plan."""

import os
from collections.abc import Iterator
from pathlib import Path

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
)
from harness.feed.stream import Stream
from tests.harness.feed.rows import expected_share, random_examples
from tests.harness.random_sets import random_sets

ONE_DEVICE = ("/CPU:0",)


def check(
    examples: Examples,
    plan: Plan,
    *,
    devices: tuple[str, ...] = ONE_DEVICE,
    mapped: bool = False,
    epochs: int = 1,
    start_step: int = 0,
) -> list[tuple[Dispatch, BatchesByRows]]:
    """Compares all of a stream with the rows; returns the stream."""
    columns = Columns.of(examples)
    stream = Stream(columns, devices=devices, mapped=mapped)
    found = list(stream.dispatches(plan, epochs=epochs, start_step=start_step))
    planned = (
        EpochPlan(plan, epoch).dispatch(step, plan.dispatch_end(step), origin=step)
        for epoch, first in epochs_from(plan, start_step=start_step, epochs=epochs)
        for step in starts(plan, first)
    )
    for (dispatch, batches), wanted in zip(found, planned, strict=True):
        assert dispatch == wanted
        assert batches.keys() == plan.capacities.keys()
        for rows in batches.keys() - {call.rows for call in dispatch.calls}:
            tensors = tf.nest.flatten([list(own) for own in batches[rows]])
            assert not any(np.any(tensor.numpy()) for tensor in tensors), "none comes early"
        first = dispatch.step % plan.steps_per_epoch
        for step in range(first, first + dispatch.num_steps):
            is_last = step == plan.whole_steps
            rows = next(rows for rows in batches if (rows < plan.batch_size) == is_last)
            (capacity,) = {call.capacity for call in dispatch.calls if call.rows == rows}
            for replica, own in enumerate(batches[rows]):
                place = 0 if is_last else step - first
                held = expected_share(
                    columns, plan, replica=replica, epoch=dispatch.epoch, step=step
                )
                for (name, wanted_rows), length in zip(held.ragged.items(), capacity, strict=True):
                    parts = {n: t.numpy()[place] for n, t in own.ragged[name].items()}
                    steps = 1 if is_last else min(plan.steps_per_call, plan.whole_steps)
                    assert own.ragged[name]["values"].shape == (steps, length)
                    ids = [token for row in wanted_rows for token in row]
                    assert parts["row_splits"].tolist() == [0, *np.cumsum([*map(len, wanted_rows)])]
                    assert parts["values"].tolist() == ids + [0] * (length - len(ids))
                    if name in held.id_weights:
                        weights = parts["weights"].tolist()
                        assert weights == held.id_weights[name] + [0] * (length - len(ids))
                for name, array in held.dense.items():
                    np.testing.assert_array_equal(own.dense[name].numpy()[place], array)
    return found


def starts(plan: Plan, step: int) -> Iterator[int]:
    """Yields the steps with which an epoch's dispatches begin."""
    while step < plan.steps_per_epoch:
        yield step
        step = plan.dispatch_end(step)


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
    plan = Plan(
        lengths=Columns.of(examples).lengths,
        batch_size=draw(st.integers(1, 20)),
        replicas=1,
        steps_per_call=draw(st.integers(1, 6)),
        seed=draw(st.integers(0, 100)),
        epochs=2,
        in_blocks=draw(st.booleans()),
    )
    if draw(st.booleans()):  # as of a run that is too long to be looked at
        any_order = {
            rows: capacities_for_any_order(plan.lengths, rows=rows) for rows in plan.capacities
        }
        object.__setattr__(plan, "capacities", any_order)
    return examples, plan, draw(st.integers(0, 2 * plan.steps_per_epoch))


# Each example traces a tf.data graph of its own, so fewer than for plain NumPy.
@settings(max_examples=5)
@given(case=cases(), mapped=st.booleans())
def test_holds_what_the_plan_says_from_any_step(
    case: tuple[Examples, Plan, int], mapped: bool
) -> None:
    examples, plan, start_step = case
    check(examples, plan, epochs=2, start_step=start_step, mapped=mapped)


@pytest.mark.parametrize(("last", "mapped"), [(0, True), (1, False), (3, True)])
def test_every_device_gets_its_shares(logical_devices: list[str], last: int, mapped: bool) -> None:
    """The stream is read as for copies to a GPU: one element for each device in turn. The last
    batch's shares differ in size, and one may have no row."""
    devices = tuple(logical_devices)
    examples = random_examples(np.random.default_rng(), rows=40 + last)
    lengths = Columns.of(examples).lengths
    plan = Plan(lengths=lengths, batch_size=8, replicas=2, steps_per_call=2, seed=7, epochs=2)
    stream = check(examples, plan, devices=devices, epochs=2, mapped=mapped)
    assert len(stream) == 6
    for _, batches in stream:
        for of_devices in batches.values():
            for device, own in zip(devices, of_devices, strict=True):
                assert all(tensor.device.endswith(device) for tensor in tf.nest.flatten(own))


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
    columns = Columns.of(Examples.of(store.load(tmp_path / "rows")[0]))
    plan = Plan(
        lengths=columns.lengths, batch_size=10, replicas=1, steps_per_call=1, seed=0, epochs=1
    )
    stream = Stream(columns, devices=ONE_DEVICE, mapped=True)
    dispatches = stream.dispatches(plan)
    next(dispatches)
    os.utime(tmp_path / "rows" / "values.npy")
    with pytest.raises(InputError, match=r"values\.npy was changed while in use"):
        list(dispatches)
