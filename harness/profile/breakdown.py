"""Where a step's time goes: every moment between the step markers, given to one part."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.observers.profiler import INPUT_MARKER, STEP_MARKER
from harness.profile.parts import (
    BETWEEN_OPERATIONS,
    CONTAINERS,
    HOST,
    INPUT,
    OTHER_OPERATIONS,
    PARTS,
    part_of,
)
from harness.profile.trace import Event, Trace

_XLA_RUNS = ("CpuExecutable::ExecuteAsyncOnStream", "ThunkExecutor::Execute")
_OPERATION, _WAIT, _PROGRAM = range(3)
"""What a moment is given to, the first that is under way; else to the host."""


@dataclass(frozen=True, kw_only=True)
class OperationTime:
    """An operation, over all steps of the profile."""

    name: str
    """As the trace viewer shows it."""
    part: str
    count: int
    ms: float
    """Of all its runs; on several threads at once it adds up to more than passes."""


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

    A moment in which operations run is theirs, in equal shares where several run at once (on
    threads, streams or replicas). Else it is the input's while the training thread waits for
    batches, or lies between operations while a compiled program runs; what is left is the host's.
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
        part = label if level == _OPERATION else _background(event)
        if part:
            key = (event.op or _short(event.tensorflow_op) or event.name, part)
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
    """Those that begin between markers, each with its end, or that of the marker if it is before.

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
    """The level of an event and its part; None: it decides nothing."""
    if on_device and not event.device.startswith("cpu"):
        # Kernels, and copies that belong to no operation.
        return _OPERATION, _operation_part(event, trace) or OTHER_OPERATIONS
    if not on_device and event.op is not None:
        part = _operation_part(event, trace)
        return (None, "") if part is None else (_OPERATION, part)
    path = f"{event.tensorflow_op or ''}/"
    if event.tensorflow_type is not None and part_of(path) == "all-reduce":
        return _OPERATION, "all-reduce"  # of logical CPU devices: TensorFlow's own operations
    if event.name == INPUT_MARKER:
        return _WAIT, INPUT
    if event.name in _XLA_RUNS:
        return _PROGRAM, BETWEEN_OPERATIONS
    return None, ""


def _operation_part(event: Event, trace: Trace) -> str | None:
    """The part of an operation of a compiled program; None for one around others."""
    known = trace.operations.get((event.module or "", event.op or ""))
    if known is not None and known.opcode in CONTAINERS:
        return None
    return part_of(known.path if known is not None else event.tensorflow_op or "")


def _short(tensorflow_op: str | None) -> str | None:
    """Its name and the scope right around it."""
    return tensorflow_op and "/".join(tensorflow_op.split("/")[-2:])


def _background(event: Event) -> str | None:
    """The part of a tf.data operation beside the training thread, which no moment is given to."""
    is_input = (event.thread or "").startswith("tf_data") and event.tensorflow_type
    return "input, in the background" if is_input and event.tensorflow_type != "Dataset" else None


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
    """Gives a stretch of time to what is under way in it."""
    active = next((counter for counter in running if any(counter.values())), None)
    if active is None:
        swept[HOST] += ns
        return
    for label, count in active.items():
        swept[label] += ns * count / active.total()
