"""The profiler's observer with TensorFlow's own profiler, and the division of a step's time."""

import contextlib
from pathlib import Path

import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from tensorflow.compiler.xla.service import hlo_pb2
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from harness.run.profiling import (
    HOST,
    INPUT,
    INPUT_MARKER,
    OTHER,
    PARTS,
    STEP_MARKER,
    Event,
    ProfilerObserver,
    divide,
    part_of,
    read,
)
from harness.run.records import BatchesAwaited, BatchesReady
from tests.harness.run.observers.samples import window

FORWARD, OPTIMIZER = "first layer, forward", "optimizer"
spans = st.tuples(st.integers(0, 60), st.integers(1, 12))
names = st.sampled_from([FORWARD, OPTIMIZER, OTHER, INPUT_MARKER, "anything"])


def drive(profiler: ProfilerObserver, step: int, sizes: list[int]) -> None:
    """Reports dispatches of these sizes to the profiler as the loop does."""
    for num_steps in sizes:
        profiler.tell(BatchesAwaited(step=step))
        profiler.tell(BatchesReady(step=step))
        tf.reduce_sum(tf.ones([10])).numpy()
        step += num_steps
        profiler.tell(window(step, num_steps=num_steps, seconds=0.001 * step))


def test_whole_dispatches_are_profiled_from_a_step_on(tmp_path: Path) -> None:
    with ProfilerObserver(tmp_path / "a" / "new", 3, 7) as profiler:
        drive(profiler, 0, [4, 5, 1, 5, 5])
    assert (profiler.first_step, profiler.last_step, profiler.num_dispatches) == (4, 15, 3)
    assert [profiler.path] == list(tmp_path.rglob("*.xplane.pb"))
    assert profiler.path is not None
    assert profiler.path.parents[3] == tmp_path / "a" / "new"
    assert [found.name for found in read(profiler.path)].count(STEP_MARKER) == 3
    (warning,) = xplane_pb2.XSpace.FromString(profiler.path.read_bytes()).warnings
    assert "a dispatch of 3.667 optimizer steps: divide its times by 3.667" in warning
    assert profiler.finish().startswith("the steps 4 to 15 were profiled: ")


def test_a_run_that_fails_leaves_none_and_stops_the_profiler(tmp_path: Path) -> None:
    for _ in range(2):  # it could not start a second time otherwise
        with contextlib.suppress(KeyError), ProfilerObserver(tmp_path, 0, 9) as profiler:
            drive(profiler, 0, [4, 4])
            raise KeyError
    assert list(tmp_path.rglob("*.xplane.pb")) == []


def test_a_run_that_ends_too_early_says_so(tmp_path: Path) -> None:
    with ProfilerObserver(tmp_path, 9, 20) as profiler:
        drive(profiler, 0, [8, 8])
        profiler.tell(BatchesAwaited(step=16))  # the loop asks for more, and there is none
    assert "no dispatch began at step 9 or later" in profiler.finish()
    assert list(tmp_path.rglob("*.xplane.pb")) == []


def event(name: str, start: int, end: int, *, on_gpu: bool = False) -> Event:
    part = name if name in PARTS else None
    return Event(name=name, start_ns=start, end_ns=end, part=part, on_gpu=on_gpu)


def given(events: list[Event]) -> dict[str, float]:
    """Returns the nanoseconds of the parts that have any."""
    return {part: round(ms * 1e6, 6) for part, ms in divide(events).parts.items() if ms > 0}


@hypothesis.given(
    markers=st.lists(spans, min_size=1, max_size=4), others=st.lists(st.tuples(names, spans))
)
def test_every_nanosecond_is_given_once(
    markers: list[tuple[int, int]], others: list[tuple[str, tuple[int, int]]]
) -> None:
    steps, free = [], 0
    for start, length in sorted(markers):
        begin = max(start, free)
        steps.append(event(STEP_MARKER, begin, begin + length))
        free = begin + length + 1
    inside = [  # an operation ends with its step, as a dispatch waits for the device
        event(name, start, min(start + length, int(step.end_ns)))
        for name, (start, length) in others
        for step in steps
        if step.start_ns <= start < step.end_ns
    ]
    outside = [event(OPTIMIZER, free + 1, free + 9)]
    found = divide([*steps, *inside, *outside])
    assert sum(found.parts.values()) == pytest.approx(found.ms)
    assert found.ms * 1e6 == pytest.approx(sum(step.end_ns - step.start_ns for step in steps))

    def ns(*parts: str) -> float:
        return 1e6 * sum(found.parts[part] for part in parts)

    moments = range(free)
    busy = {n for e in inside if e.part for n in moments if e.start_ns <= n < e.end_ns}
    waits = {
        n for e in inside if e.name == INPUT_MARKER for n in moments if e.start_ns <= n < e.end_ns
    }
    assert ns(FORWARD, OPTIMIZER, OTHER) == pytest.approx(len(busy))
    assert ns(INPUT) == pytest.approx(len(waits - busy))


def test_operations_that_run_at_once_share_the_time() -> None:
    events = [event(STEP_MARKER, 0, 20), event(FORWARD, 2, 6), event(OPTIMIZER, 2, 14)]
    assert given(events) == {FORWARD: 3.0, OPTIMIZER: 9.0, HOST: 8.0}
    assert divide(events).operations == [
        (OPTIMIZER, OPTIMIZER, pytest.approx(12e-6)),
        (FORWARD, FORWARD, pytest.approx(4e-6)),
    ]
    assert not divide(events).on_gpu


def test_on_a_gpu_the_hosts_operations_are_launches() -> None:
    events = [
        event(STEP_MARKER, 0, 20),
        event(OPTIMIZER, 0, 4),
        event(FORWARD, 5, 9, on_gpu=True),
        event(OTHER, 9, 10, on_gpu=True),
    ]
    assert divide(events).on_gpu
    assert given(events) == {FORWARD: 4.0, OTHER: 1.0, HOST: 15.0}


# Name scopes, as XLA keeps them.
@pytest.mark.parametrize(
    ("scopes", "part"),
    [
        ("while/input/GatherV2_1", "input"),
        (
            "while/model_1/multi_hot_dense_1/multi_hot_forward/XlaCallModule/f",
            "first layer, forward",
        ),
        ("gradient_tape/while/model_1/multi_hot_dense_1/add/Sum", "first layer, backward"),
        ("while/model_1/dense_1_1/MatMul", "dense layers, forward"),
        ("gradient_tape/while/model_1/dense_2_1/MatMul/MatMul_1", "dense layers, backward"),
        ("while/loss_1/logistic_loss/Exp", "loss"),
        ("while/optimizer/adam/truediv", "optimizer"),
        ("while/body/_1/while/all_reduce/AddN", "all-reduce"),
        ("while/my_input/add", OTHER),
        ("", OTHER),
    ],
)
def test_part_of(scopes: str, part: str) -> None:
    assert part_of(scopes) == part
    assert part in PARTS


def test_operations_on_a_gpus_streams_are_read(tmp_path: Path) -> None:
    """Beside the streams stand lines that xprof derives from them, which show the same time
    again."""
    space = xplane_pb2.XSpace()
    gpu = space.planes.add(name="/device:GPU:0")
    gpu.event_metadata[1].name = "kernel"
    for number, name in enumerate(("hlo_op", "program_id", "fusion.1"), 1):
        gpu.stat_metadata[number].name = name
    for name in ("Stream #14(Kernel)", "XLA Ops"):
        line = gpu.lines.add(name=name, timestamp_ns=5)
        kernel = line.events.add(metadata_id=1, offset_ps=2_000, duration_ps=3_000)
        kernel.stats.add(metadata_id=1, ref_value=3)
        kernel.stats.add(metadata_id=2, int64_value=7)
    program = hlo_pb2.HloProto()
    operation = program.hlo_module.computations.add().instructions.add(name="fusion.1")
    operation.metadata.op_name = "while/optimizer/adam/add"
    of_programs = space.planes.add(name="/host:metadata")
    of_programs.event_metadata[7].stats.add(bytes_value=program.SerializeToString())
    path = tmp_path / "host.xplane.pb"
    path.write_bytes(space.SerializeToString())
    assert read(path) == [Event("fusion.1", 7, 10, OPTIMIZER, on_gpu=True)]
