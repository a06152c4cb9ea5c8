"""Inside a compiled program both feeds read the same shares, for every implementation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.feed.batch import (
    LABELS,
    WEIGHTS,
    AnyBatches,
    BatchesByRows,
    Columns,
    RaggedInput,
    ReplicaBatch,
    batch_of,
    reader_of,
    wire_type,
)
from harness.feed.capacity import Capacity
from harness.feed.feed import build_feed
from harness.feed.plan import Call, Plan, evaluation_plan, shares_of
from tests.harness.feed.rows import Labels, expected_share, random_examples
from tests.harness.random_sets import random_sets
from tests.kernels.multi_hot.checks import needs_compiler

IMPLEMENTATIONS = ("gather", pytest.param("native", marks=needs_compiler))  # dense reads as gather
PAIRS = pytest.mark.parametrize(
    ("kind", "implementation"),
    [("stream", "gather"), pytest.param("resident", "native", marks=needs_compiler)],
)
CPU = ("/CPU:0",)


def _array(tensor: tf.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.numpy()


class _Group(NamedTuple):
    """All batches of a call and the step of one of them, as tensors."""

    values: Any
    row_splits: Any
    weights: Any
    step: Any


class Reading:
    """Reads whole calls in compiled programs, as `Program` does, one for each kind of call."""

    def __init__(self, implementation: str, *, for_gpu: bool = False) -> None:
        self._options: Any = {"implementation": implementation, "for_gpu": for_gpu}
        self._programs: dict[tuple[int, Capacity], Callable[..., Any]] = {}

    def __call__(self, batches: BatchesByRows, call: Call) -> list[ReplicaBatch]:
        """Returns the share of each of the call's steps, as NumPy arrays, of a single device."""
        key = call.num_steps, call.capacity
        program = self._programs.setdefault(key, self._program(*key))
        first = tf.constant(call.first, tf.int64)
        (own,) = batches[call.rows]
        steps = [program(own, first, tf.constant(step)) for step in range(call.num_steps)]
        as_arrays: list[ReplicaBatch] = tf.nest.map_structure(_array, steps)
        return [share.within(call.rows, 1, 0) for share in as_arrays]

    def _program(self, num_steps: int, capacity: Capacity) -> Callable[..., Any]:
        @tf.function(jit_compile=True, autograph=False)
        def read(batches: AnyBatches, first: tf.Tensor, step: tf.Tensor) -> ReplicaBatch:
            batch = reader_of(batches, first, num_steps, capacity=capacity, **self._options)(step)
            inputs = dict(batch.inputs)
            for name, ragged in batch.ragged.items():
                if ragged.group is not None:
                    lot, at = ragged.group
                    group: Any = _Group(lot.values, lot.row_splits, lot.weights, at)
                    inputs[name] = ragged._replace(group=group)
            return batch._replace(inputs=inputs)

        return read


def check(
    share: ReplicaBatch, columns: Columns, plan: Plan, capacity: Capacity, **place: int
) -> None:
    """Compares a share with the rows."""
    expected = expected_share(columns, plan, replica=0, **place)
    num_rows = share.num_rows
    for (name, sets), length in zip(columns.ragged.items(), capacity, strict=True):
        ragged = RaggedInput(**share.labels) if name == LABELS else share.ragged[name]
        read = ragged.sets
        values, splits = read["values"], read["row_splits"]
        assert (values.shape, splits.shape) == ((length,), (num_rows + 1,))
        *rows, _ = np.split(values, splits[1:])
        assert [row.tolist() for row in rows] == expected.ragged[name]
        assert (values < sets.num_tokens).all(), "also what pads"
        padded = ragged.without_padding().numpy()
        np.testing.assert_array_equal(padded[: splits[-1]], values[: splits[-1]])
        assert (padded[splits[-1] :] >= 2**30).all(), "no table's id"
        assert ("weights" in read) == (name in expected.id_weights)
        if "weights" in read:
            assert read["weights"].shape == (length,)
            np.testing.assert_array_equal(
                read["weights"][: splits[-1]], np.float32(expected.id_weights[name])
            )
        if ragged.value_rowids is not None:
            counts = [*np.diff(splits), len(values) - splits[-1]]
            rowids = np.arange(num_rows + 1).repeat(counts)
            np.testing.assert_array_equal(ragged.value_rowids, rowids)
        if (group := ragged.group) is not None:
            assert group.values.dtype == wire_type(sets.num_tokens), "as it lies on the device"
            for part, array in read.items():
                held = getattr(group, part)[group.step]
                np.testing.assert_array_equal(held, array, err_msg=part)
    weights = expected.dense.get(WEIGHTS, np.ones(num_rows))
    read = {**share.inputs, LABELS: share.labels, WEIGHTS: share.weights}
    for name, array in {**expected.dense, WEIGHTS: weights}.items():
        np.testing.assert_array_equal(read[name], array, err_msg=name)


def plan_of(columns: Columns, **changes: int) -> Plan:
    settings = {"batch_size": 8, "replicas": 1, "steps_per_call": 3, "seed": 5, "epochs": 2}
    return Plan(lengths=columns.lengths, **(settings | changes))


@pytest.mark.parametrize(
    ("kind", "implementation", "labels"),
    [
        ("stream", "gather", "ragged"),
        ("resident", "gather", "none"),
        pytest.param("stream", "native", "matrix", marks=needs_compiler),
        pytest.param("resident", "native", "numbers", marks=needs_compiler),
        pytest.param("stream", "native on a GPU", "classes", marks=needs_compiler),
        pytest.param("resident", "native on a GPU", "ragged", marks=needs_compiler),
    ],
)
def test_shares_are_the_rows_of_the_plan(kind: str, implementation: str, labels: Labels) -> None:
    """There are several inputs, and the epoch ends in a shorter call and a smaller batch. Each
    implementation meets each kind of feed, and each kind of labels is met."""
    rows = 53 if labels == "classes" else 21
    examples = random_examples(
        np.random.default_rng(),
        rows=rows,
        labels=labels,
        weights=labels != "matrix",
        id_weights=labels != "classes",
    )
    columns = Columns.of(examples)
    plan = plan_of(columns)
    for_gpu = implementation.endswith("GPU")
    reading = Reading(implementation.split()[0], for_gpu=for_gpu)
    feed = build_feed(kind, examples, devices=CPU)
    steps_done = 0
    for dispatch, batches in feed.dispatches(plan, epochs=2):
        step = dispatch.step % plan.steps_per_epoch
        for call in dispatch.calls:
            for share in reading(batches, call):
                for ragged in share.ragged.values():
                    assert (ragged.value_rowids is not None) == (implementation == "gather")
                    assert (ragged.group is not None) == for_gpu
                check(share, columns, plan, call.capacity, epoch=dispatch.epoch, step=step)
                step += 1
                steps_done += 1
    assert steps_done == 2 * plan.steps_per_epoch


@PAIRS
def test_ids_and_labels_that_take_32_bits(kind: str, implementation: str) -> None:
    rng = np.random.default_rng()
    sets = random_sets(rng, rows=20, num_tokens=2**31 - 1, num_classes=2**17)
    columns = Columns.of(Examples.of(sets))
    plan = evaluation_plan(columns.lengths, batch_size=7, replicas=1, steps_per_call=3)
    dispatch, batches = next(build_feed(kind, Examples.of(sets), devices=CPU).dispatches(plan))
    call = dispatch.calls[0]
    for step, share in enumerate(Reading(implementation)(batches, call)):
        check(share, columns, plan, call.capacity, epoch=0, step=step)


@pytest.mark.parametrize(
    ("num_steps", "capacity", "at_once"),
    [
        *((2, 2**25, True), (2, 2**25 + 1, False)),
        *((2**16 - 1, 8, True), (2**16, 8, False)),
    ],
)
def test_a_gpu_takes_the_rows_of_all_steps_at_once_up_to_a_limit(
    num_steps: int, capacity: int, at_once: bool
) -> None:
    sets = random_sets(np.random.default_rng(), rows=8)
    plan = plan_of(Columns.of(Examples.of(sets)))
    ((_, batches),) = build_feed("resident", Examples.of(sets), devices=CPU).dispatches(plan)

    @tf.function(autograph=False)
    def read(step: tf.Tensor) -> None:
        first = tf.constant(0, tf.int64)
        how: Any = {"capacity": (capacity,), "implementation": "native", "for_gpu": True}
        (own,) = reader_of(batches[8][0], first, num_steps, **how)(step).ragged.values()
        assert (own.group is not None) == at_once

    read.get_concrete_function(tf.TensorSpec([], tf.int32))


def test_a_batch_of_some_rows_is_read_without_a_feed() -> None:
    columns = Columns.of(random_examples(np.random.default_rng(), rows=9, id_weights=True))
    plan = evaluation_plan(columns.lengths, batch_size=9, replicas=1, steps_per_call=1)
    batch = batch_of(columns, 3, "gather")
    share: ReplicaBatch = tf.nest.map_structure(
        lambda one: _array(one) if tf.is_tensor(one) else one, batch
    )
    assert (share.batch_rows, share.num_rows, share.num_replicas) == (9, 9, 1)
    capacity = tuple(sets.nnz + 3 for sets in columns.ragged.values())
    check(share, columns, plan, capacity, epoch=0, step=0)


@given(st.integers(1, 20), st.integers(1, 6))
def test_shares_know_their_part_of_the_batch(batch_rows: int, num_devices: int) -> None:
    """A device without a row computes on another row, which does not count whatever its weight."""
    sizes = shares_of(batch_rows, num_devices)
    shares = [
        ReplicaBatch({}, None, tf.fill([max(size, 1)], float("nan"))).within(
            batch_rows, num_devices, place
        )
        for place, size in enumerate(sizes)
    ]
    assert [share.num_rows for share in shares] == sizes
    assert {(share.batch_rows, share.most_rows) for share in shares} == {(batch_rows, max(sizes))}
    assert sum(share.fraction for share in shares) == pytest.approx(1)
    for share, size in zip(shares, sizes, strict=True):
        assert bool(tf.reduce_all(tf.math.is_nan(share.weights))) == (size > 0)
        assert size or not np.any(share.weights)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_resident_rows_of_more_ids_than_the_capacity_are_not_cut_unseen(
    implementation: str,
) -> None:
    rows = np.split(np.arange(15), np.cumsum([3, 2, 9]))
    sets = RaggedSets.from_lists(rows, labels=np.array([0, 1, 0, 1]))
    plan = evaluation_plan(sets.lengths[None], batch_size=2, replicas=1, steps_per_call=2)
    feed = build_feed("resident", Examples.of(sets), devices=CPU)
    ((_, batches),) = feed.dispatches(plan)
    call = Call(first=0, num_steps=2, capacity=(8,), rows=2)
    if implementation == "native":
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"more ids than the . that"):
            Reading(implementation)(batches, call)
        return
    weights = [share.weights for share in Reading(implementation)(batches, call)]
    np.testing.assert_array_equal(weights, [[1, 1], [np.nan, np.nan]])


@PAIRS
def test_what_programs_are_compiled_with_fits_any_capacity(kind: str, implementation: str) -> None:
    examples = random_examples(np.random.default_rng(), rows=20, id_weights=True)
    columns = Columns.of(examples)
    plan = plan_of(columns, batch_size=4, steps_per_call=5, epochs=1)
    ((_, by_rows),) = build_feed(kind, examples, devices=CPU).dispatches(plan)
    (batches,) = by_rows[4]
    resized = batches.resized((640, 256))
    assert resized.num_rows == batches.num_rows == 4
    specs = [
        [(field.dtype, field.shape) for field in tf.nest.flatten(each)]
        for each in (batches.resized(plan.capacities[4].largest), batches)
    ]
    assert specs[0] == specs[1], "what was compiled is what runs"
    call = Call(first=0, num_steps=2, capacity=(640, 256), rows=4)
    for share in Reading(implementation)({4: (resized,)}, call):
        for name, length in (("words", 640), ("tags", 256)):
            assert share.inputs[name].values.shape == (length,)
            assert share.ragged[name].row_splits.tolist() == [0] * 5
        assert share.ragged["tags"].weights.shape == (256,)


@pytest.mark.parametrize(("kind", "num_tokens"), [("stream", 100_000), ("resident", 50)])
def test_nothing_on_a_device_is_int32(kind: str, num_tokens: int) -> None:
    """TensorFlow keeps int32 arrays of a GPU on the host and uploads them at every call."""
    examples = random_examples(
        np.random.default_rng(),
        rows=20,
        num_tokens=num_tokens,
        labels="ragged",
        id_weights=True,
    )
    plan = plan_of(Columns.of(examples), batch_size=4, epochs=1)
    for _, batches in build_feed(kind, examples, devices=CPU).dispatches(plan):
        (own,) = batches[4]
        for each in (own, own.resized((256, 256, 256))):
            types = {tensor.dtype for tensor in tf.nest.flatten(each)}
            assert types <= {tf.uint16, tf.uint32, tf.int64, tf.float32}
