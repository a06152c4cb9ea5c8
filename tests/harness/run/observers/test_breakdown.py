"""The division of a step's time, against one that asks of every nanosecond who has it."""

from collections import defaultdict

import hypothesis
import pytest
from hypothesis import strategies as st

from harness.run.observers.breakdown import (
    BETWEEN_OPERATIONS,
    HOST,
    INPUT,
    OTHER_OPERATIONS,
    PARTS,
    break_down,
    part_of,
)
from harness.run.observers.profiler import INPUT_MARKER, STEP_MARKER
from harness.run.observers.trace import Event, Trace

MODULE = "program(1)"
OPERATIONS = {
    (MODULE, "product.1"): "multi_hot_forward/call",
    (MODULE, "update.2"): "optimizer/adam/mul",
    (MODULE, "while.3"): None,
    (MODULE, "copy.4"): "",
}
PART = {
    "product.1": "first layer, forward",
    "update.2": "optimizer",
    "copy.4": "other operations",
}
END = 60


def event(
    name: str, start: int, end: int, *, op: str | None = None, device: str = "cpu:0"
) -> Event:
    return Event(
        device=device,
        name=name,
        op=op,
        module=MODULE if op else None,
        tensorflow_op=None,
        start_ns=start,
        end_ns=end,
    )


def trace(events: list[Event]) -> Trace:
    ordered = sorted(events, key=lambda e: (e.start_ns, -e.end_ns))
    return Trace(events=tuple(ordered), operations=OPERATIONS)


spans = st.tuples(st.integers(0, END), st.integers(1, 12))
names = st.sampled_from([*PART, "while.3", INPUT_MARKER, "ThunkExecutor::Execute", "anything"])


@hypothesis.given(
    markers=st.lists(spans, min_size=1, max_size=4), others=st.lists(st.tuples(names, spans))
)
def test_every_nanosecond_is_given_once(
    markers: list[tuple[int, int]], others: list[tuple[str, tuple[int, int]]]
) -> None:
    steps = []
    free = 0
    for start, length in sorted(markers):
        begin = max(start, free)
        steps.append(event(STEP_MARKER, begin, begin + length))
        free = begin + length + 1
    rest = [
        event(name, start, start + length, op=name if (MODULE, name) in OPERATIONS else None)
        for name, (start, length) in others
    ]
    found = break_down(trace([*steps, *rest]))

    expected: dict[str, float] = defaultdict(float)
    for step in steps:
        # What begins outside of a step counts in none.
        inside = [e for e in rest if step.start_ns <= e.start_ns < step.end_ns]
        for ns in range(step.start_ns, step.end_ns):
            now = [e.name for e in inside if e.start_ns <= ns < e.end_ns]
            running = [PART[name] for name in now if name in PART]
            if running:
                for part in running:
                    expected[part] += 1 / len(running)
            elif INPUT_MARKER in now:
                expected[INPUT] += 1
            elif "ThunkExecutor::Execute" in now:
                expected[BETWEEN_OPERATIONS] += 1
            else:
                expected[HOST] += 1
    for part in PARTS:
        assert found.parts[part] * 1e6 == pytest.approx(expected[part]), part
    assert sum(found.parts.values()) == pytest.approx(found.ms)
    assert found.ms * 1e6 == pytest.approx(sum(e.end_ns - e.start_ns for e in steps))


def test_operations_are_added_up_by_name() -> None:
    found = break_down(
        trace(
            [
                event(STEP_MARKER, 0, 20),
                event("while.3", 1, 19, op="while.3"),
                event("product.1", 2, 6, op="product.1"),
                event("update.2", 4, 14, op="update.2"),
                event("product.1", 7, 10, op="product.1"),
                event("product.1", 30, 40, op="product.1"),
            ]
        )
    )
    assert [(o.name, o.part, o.count, o.ms) for o in found.operations] == [
        ("update.2", "optimizer", 1, pytest.approx(10e-6)),
        ("product.1", "first layer, forward", 2, pytest.approx(7e-6)),
    ]
    assert not found.on_device


def test_on_a_device_only_its_events_are_operations() -> None:
    found = break_down(
        trace(
            [
                event(STEP_MARKER, 0, 20),
                event("launch", 0, 4, op="product.1"),
                event("kernel", 5, 9, op="product.1", device="gpu:0"),
                event("MemcpyD2H", 9, 10, device="gpu:0"),
            ]
        )
    )
    assert found.on_device
    given = {part: ms * 1e6 for part, ms in found.parts.items() if ms > 0}
    assert given == {
        "first layer, forward": pytest.approx(4),
        "other operations": pytest.approx(1),
        HOST: pytest.approx(15),
    }
    assert [o.name for o in found.operations] == ["product.1", "MemcpyD2H"]


# Name scopes, as XLA keeps them.
@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("while/input/GatherV2_1", "input"),
        ("input/XlaCallModule/multi_hot_take_rows", "input"),
        (
            "while/model_1/multi_hot_dense_1/multi_hot_forward/XlaCallModule/f",
            "first layer, forward",
        ),
        (
            "while/model_1/multi_hot_dense_1/multi_hot_index/add",
            "first layer, forward",
        ),
        (
            "gradient_tape/while/model_1/multi_hot_dense_1/add/Sum",
            "first layer, backward",
        ),
        ("while/multi_hot_backward/UnsortedSegmentSum", "first layer, backward"),
        ("while/model_1/dense_1_1/MatMul", "dense layers, forward"),
        ("model_1/dropout_0_1/SelectV2", "dense layers, forward"),
        ("while/model_1/logits_1/MatMul", "dense layers, forward"),
        (
            "gradient_tape/while/model_1/dense_2_1/MatMul/MatMul_1",
            "dense layers, backward",
        ),
        ("while/loss_1/logistic_loss/Exp", "loss"),
        ("gradient_tape/loss_1/truediv/RealDiv", "loss"),
        ("while/loss_scale/truediv_3", "optimizer"),
        ("while/optimizer/adam/truediv", "optimizer"),
        ("optimizer/cond/is_finite", "optimizer"),
        ("while/body/_1/while/all_reduce/AddN", "all-reduce"),
        ("while/add_1", OTHER_OPERATIONS),
        ("while/my_input/add", OTHER_OPERATIONS),
        ("", OTHER_OPERATIONS),
    ],
)
def test_part_of(path: str, part: str) -> None:
    assert part_of(path) == part
    assert part in PARTS
