"""Where a step's time goes: every moment between the step markers belongs to one part."""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.observe.profiler import INPUT_MARKER, STEP_MARKER
from harness.observe.trace import Event, Trace

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
"""The parts of a step, in the order in which they are shown, each with what is in it."""

SCOPED = tuple(
    part for part in PARTS if part not in (INPUT, OTHER_OPERATIONS, BETWEEN_OPERATIONS, HOST)
)
"""Parts that are recognized by name scopes."""

_FIRST_LAYER = re.compile(r"(^|/)multi_hot_(dense|index|forward|backward)(_\d+)?/")
_NETWORK = re.compile(r"(^|/)model(_\d+)?/")
_SCOPE = re.compile(r"(?:^|/)(input|loss|loss_scale|optimizer|all_reduce)(?:_\d+)?/")
_PART_OF_SCOPE = {"all_reduce": "all-reduce", "loss_scale": "optimizer"}
_BACKWARD = re.compile(r"(^|/)(gradient_tape|multi_hot_backward(_\d+)?)/")

CONTAINERS = {"while", "conditional", "call"}
"""Opcodes of operations that contain others."""

_XLA_RUNS = ("CpuExecutable::ExecuteAsyncOnStream", "ThunkExecutor::Execute")
_OPERATION, _WAIT, _PROGRAM = range(3)
"""A moment belongs to the first of these that is under way, or else to the host."""


@dataclass(frozen=True, kw_only=True)
class OperationTime:
    """An operation in all steps of the profile."""

    name: str
    """As the trace viewer shows it."""
    part: str
    count: int
    ms: float
    """Of all its runs; those on several threads at once add up."""


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """The time between the step markers, in milliseconds for all steps together."""

    ms: float
    """The length of all step markers."""
    parts: dict[str, float]
    """By `PARTS`; they add up to `ms`."""
    operations: tuple[OperationTime, ...]
    """By time, the longest first."""
    on_device: bool
    """Whether the trace holds events of another device than the host."""


def break_down(trace: Trace) -> Breakdown:
    """Divides the time between the step markers.

    A moment in which operations run is theirs, in equal shares if several run at once (on threads,
    streams or replicas). Otherwise it belongs to the input while the training thread waits for
    batches, to "between operations" while a compiled program runs, and else to the host.
    """
    markers = [(e.start_ns, e.end_ns) for e in trace.events if e.name == STEP_MARKER]
    on_device = any(not event.device.startswith("cpu") for event in trace.events)
    changes: list[tuple[int, int, int, str]] = []
    times: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for event, end_ns in _within(trace.events, markers):
        level, label = _classified(event, trace, on_device)
        if level is not None:
            changes.append((event.start_ns, 1, level, label))
            changes.append((end_ns, -1, level, label))
        if level == _OPERATION:
            key = (event.op or _short(event.tensorflow_op) or event.name, label)
            times[key] += event.end_ns - event.start_ns
            counts[key] += 1
    parts_ns = _swept(markers, changes)
    return Breakdown(
        ms=sum(end - start for start, end in markers) / 1e6,
        parts={part: parts_ns.get(part, 0.0) / 1e6 for part in PARTS},
        operations=tuple(
            OperationTime(name=key[0], part=key[1], count=counts[key], ms=ns / 1e6)
            for key, ns in times.most_common()
        ),
        on_device=on_device,
    )


def _within(events: Iterable[Event], markers: list[tuple[int, int]]) -> Iterator[tuple[Event, int]]:
    """The events that begin between markers, each with its end, at most the marker's.

    Both are ordered by their start.
    """
    remaining = iter(markers)
    start, end = next(remaining, (0, -1))
    for event in events:
        while event.start_ns >= end:
            following = next(remaining, None)
            if following is None:
                return
            start, end = following
        if event.start_ns >= start:
            yield event, min(event.end_ns, end)


def _classified(event: Event, trace: Trace, on_device: bool) -> tuple[int | None, str]:
    """The level of an event and its part; None for one that has no influence."""
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
    return None, ""


def _operation_part(event: Event, trace: Trace) -> str | None:
    """The part of a compiled program's operation; None for one that contains others."""
    known = trace.operations.get((event.module or "", event.op or ""))
    if known is not None and known.opcode in CONTAINERS:
        return None
    return part_of(event.tensorflow_op or (known.path if known is not None else ""))


def _short(tensorflow_op: str | None) -> str | None:
    """Its name and the scope right around it."""
    return tensorflow_op and "/".join(tensorflow_op.split("/")[-2:])


def _swept(
    markers: list[tuple[int, int]], changes: list[tuple[int, int, int, str]]
) -> dict[str, float]:
    """Nanoseconds of each part; `changes` lie between the markers."""
    swept: dict[str, float] = defaultdict(float)
    running = (Counter[str](), Counter[str](), Counter[str]())
    ordered = deque(sorted(changes))
    for start, end in markers:
        now = start
        while ordered and ordered[0][0] <= end:
            time, change, level, label = ordered.popleft()
            _give(swept, running, time - now)
            now = time
            running[level][label] += change
        _give(swept, running, end - now)
    return swept


def _give(swept: dict[str, float], running: tuple[Counter[str], ...], ns: float) -> None:
    """Adds a stretch of time to the parts that are under way in it."""
    active = next((counter for counter in running if any(counter.values())), None)
    if active is None:
        swept[HOST] += ns
        return
    for label, count in active.items():
        swept[label] += ns * count / active.total()


def part_of(path: str) -> str:
    """The part that an operation with these name scopes belongs to.

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
