"""Breaks down a step's time: every moment between the step markers belongs to one part."""

import bisect
import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from harness.run.observers.profiler import INPUT_MARKER, STEP_MARKER
from harness.run.observers.trace import Event, Trace

INPUT = "input"
OTHER_OPERATIONS = "other operations"
BETWEEN_OPERATIONS = "between operations"
HOST = "host"

PARTS = {
    INPUT: "waiting for batches, reading one",
    "first layer, forward": "product, bias, activation",
    "first layer, backward": "",
    "dense layers, forward": "with dropout and the head",
    "dense layers, backward": "",
    "loss": "with the sums for metrics",
    "all-reduce": "of the gradients",
    "optimizer": "with loss scaling, if any",
    OTHER_OPERATIONS: "copies, and what has no scope",
    BETWEEN_OPERATIONS: "in the compiled program",
    HOST: "Python, TensorFlow's runtime",
}
"""The parts of a step, in display order, each with its contents."""

SCOPED = tuple(
    part for part in PARTS if part not in (INPUT, OTHER_OPERATIONS, BETWEEN_OPERATIONS, HOST)
)
"""The parts that are recognized by name scopes."""

_FIRST_LAYER = re.compile(r"(^|/)multi_hot_(dense|index|forward|backward)(_\d+)?/")
_NETWORK = re.compile(r"(^|/)model(_\d+)?/")
_SCOPE = re.compile(r"(?:^|/)(input|loss|loss_scale|optimizer|all_reduce)(?:_\d+)?/")
_PART_OF_SCOPE = {"all_reduce": "all-reduce", "loss_scale": "optimizer"}
_BACKWARD = re.compile(r"(^|/)(gradient_tape|multi_hot_backward(_\d+)?)/")

_XLA_RUNS = ("CpuExecutable::ExecuteAsyncOnStream", "ThunkExecutor::Execute")
_OPERATION, _WAIT, _PROGRAM, _STEP = range(4)
"""Levels of events: a moment belongs to the events on the first level that has any then."""


@dataclass(frozen=True, kw_only=True)
class OperationTime:
    """An operation in all steps of the profile."""

    name: str
    """The name that the trace viewer shows."""
    part: str
    count: int
    ms: float
    """Time of all its runs; runs on several threads at once add up."""


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """The time between the step markers, in milliseconds for all steps together."""

    ms: float
    """The length of all step markers."""
    parts: dict[str, float]
    """The time of each part of `PARTS`; the times add up to `ms`."""
    operations: tuple[OperationTime, ...]
    """The operations, the one with the most time first."""
    on_device: bool
    """Whether the trace holds events of a device other than the host."""


def break_down(trace: Trace) -> Breakdown:
    """Divides the time between the step markers; events that begin outside of them do not count.

    A moment in which operations run belongs to them, in equal shares if several run at once (on
    threads, streams or replicas). Otherwise it belongs to the input while the training thread waits
    for batches, to "between operations" while a compiled program runs, and else to the host.
    """
    markers = [event for event in trace.events if event.name == STEP_MARKER]
    starts = [marker.start_ns for marker in markers]
    on_device = any(not event.device.startswith("cpu") for event in trace.events)
    changes: list[tuple[int, int, int, str]] = []  # time, change of the count, level, part
    times: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for event in trace.events:
        place = bisect.bisect_right(starts, event.start_ns) - 1
        level, part = _classified(event, trace, on_device)
        if level is None or place < 0 or event.start_ns >= markers[place].end_ns:
            continue
        changes.append((event.start_ns, 1, level, part))
        changes.append((min(event.end_ns, markers[place].end_ns), -1, level, part))
        if level == _OPERATION:
            key = (event.op or event.name, part)
            times[key] += event.end_ns - event.start_ns
            counts[key] += 1
    parts_ns = _divided(changes)
    return Breakdown(
        ms=sum(marker.end_ns - marker.start_ns for marker in markers) / 1e6,
        parts={part: parts_ns[part] / 1e6 for part in PARTS},
        operations=tuple(
            OperationTime(name=key[0], part=key[1], count=counts[key], ms=ns / 1e6)
            for key, ns in times.most_common()
        ),
        on_device=on_device,
    )


def _classified(event: Event, trace: Trace, on_device: bool) -> tuple[int | None, str]:
    """Returns the level and the part of an event; the level is None if it does not count."""
    if on_device and not event.device.startswith("cpu"):
        # Kernels, and copies that belong to no operation.
        return _OPERATION, _operation_part(event, trace) or OTHER_OPERATIONS
    if not on_device and event.op is not None:
        part = _operation_part(event, trace)
        return (None, "") if part is None else (_OPERATION, part)
    if event.name == INPUT_MARKER:
        return _WAIT, INPUT
    if event.name in _XLA_RUNS:
        return _PROGRAM, BETWEEN_OPERATIONS
    if event.name == STEP_MARKER:
        return _STEP, HOST
    return None, ""


def _operation_part(event: Event, trace: Trace) -> str | None:
    """Returns the part of a compiled program's operation; None if it contains others."""
    path = trace.operations.get((event.module or "", event.op or ""), "")
    return None if path is None else part_of(event.tensorflow_op or path)


def _divided(changes: list[tuple[int, int, int, str]]) -> defaultdict[str, float]:
    """Returns the nanoseconds of each part. The time between two changes goes to the events on the
    first level that has any."""
    divided: defaultdict[str, float] = defaultdict(float)
    running = [Counter[str]() for _ in range(4)]
    before = 0
    for time, change, level, part in sorted(changes):
        active = next((counter for counter in running if counter.total()), Counter())
        for label, count in active.items():
            divided[label] += (time - before) * count / active.total()
        running[level][part] += change
        before = time
    return divided


def part_of(path: str) -> str:
    """Returns the part of an operation with the name scopes `path`.

    The scopes are those of the layers (their Keras names), of `Program`, of the training step and
    of the multi-hot product. The gradient of an operation carries its scopes behind
    `gradient_tape/`.
    """
    direction = "backward" if _BACKWARD.search(path) else "forward"
    if _FIRST_LAYER.search(path):
        return f"first layer, {direction}"
    if _NETWORK.search(path):
        return f"dense layers, {direction}"
    scope = _SCOPE.search(path)
    if scope is None:
        return OTHER_OPERATIONS
    return _PART_OF_SCOPE.get(scope[1], scope[1])
