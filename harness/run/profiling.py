"""Profiles training steps by TensorFlow's profiler, and prints where their time goes."""

import re
import shlex
import shutil
from collections import defaultdict
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tensorflow.compiler.xla.service import hlo_pb2
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from harness.base.errors import as_command, printable
from harness.run import records
from harness.run.tf_errors import os_errors
from kernels.files import replacing

# The name of a dispatch in the trace, before its first step: `optimizer steps from 60`.
STEP_MARKER = "optimizer steps from"
INPUT_MARKER = "waiting for batches"
INPUT, OTHER, HOST = "input", "other operations", "host"
# The parts of a step, in display order, each with its contents.
PARTS = {
    INPUT: "waiting for batches, reading one",
    "first layer, forward": "product, bias, activation",
    "first layer, backward": "",
    "dense layers, forward": "with dropout and the head",
    "dense layers, backward": "",
    "loss": "with the sums for metrics",
    "all-reduce": "of the gradients",
    "optimizer": "with loss scaling, if any",
    OTHER: "copies, and what has no scope",
    HOST: "Python, TensorFlow's runtime, between operations",
}
# The name scopes of operations, with their part; the first that matches counts.
_SCOPES = {
    "multi_hot_(dense|index|forward|backward)": "first layer",
    "model": "dense layers",
    "optimizer|loss_scale": "optimizer",
    "all_reduce": "all-reduce",
    "loss": "loss",
    "input": INPUT,
}
_BACKWARD = re.compile(r"(^|/)(gradient_tape|multi_hot_backward(_\d+)?)/")
_NUM_OPERATIONS = 10
_CUPTI = (
    "the profile has no events of the GPU: CUPTI, NVIDIA's profiling library, was refused or is "
    "missing. Profile as root (in a container with --cap-add SYS_ADMIN), or load the kernel module "
    "with NVreg_RestrictProfilingToAdminUsers=0. TF_CPP_MIN_LOG_LEVEL=0 shows CUPTI's own message."
)


class ProfilerObserver(records.Observer, AbstractContextManager["ProfilerObserver"]):
    """Profiles a part of a training into TensorBoard's `folder`: whole dispatches, from the first
    that begins at step `first` or later, with `num_steps` steps or more. A step marker stands for
    each, and begins where the loop asks for its batches. `tell` must be called on the thread that
    trains, whose trace it marks. An exception that ends its context discards the profile."""

    def __init__(self, folder: Path, first: int, num_steps: int) -> None:
        # `<folder>/plugins/profile/<time>/<host>.xplane.pb`, once there is a profile.
        self.path: Path | None = None
        self.first_step = self.last_step = 0  # steps done before the profile, and at its end
        self.num_dispatches = 0
        self.dispatch = ""  # what a step is on TensorBoard's page
        self._folder, self._first, self._num_steps = folder, first, num_steps
        self._is_running = False
        self._step_marker, self._input_marker = ExitStack(), ExitStack()

    def tell(self, record: records.Record) -> None:
        match record:
            case records.BatchesAwaited(step=step) if step >= self._first and self.path is None:
                if not self._is_running:
                    with os_errors(self._folder):
                        self._folder.mkdir(parents=True, exist_ok=True)
                        tf.profiler.experimental.start(str(self._folder))
                    self._is_running, self.first_step = True, step
                marker = tf.profiler.experimental.Trace(STEP_MARKER, step_num=step, _r=1)
                self._step_marker.enter_context(marker)
                self._input_marker.enter_context(tf.profiler.experimental.Trace(INPUT_MARKER))
            case records.BatchesReady():
                self._input_marker.close()
            case records.Window(step=step) if self._is_running:
                self._step_marker.close()
                self.num_dispatches, self.last_step = self.num_dispatches + 1, step
                if step - self.first_step >= self._num_steps:
                    self.stop()

    def stop(self, *, save: bool = True) -> None:
        """Ends the profile, if it is running."""
        self._input_marker.close()
        self._step_marker.close()
        if not self._is_running:
            return
        self._is_running = False
        if not (save and self.num_dispatches):
            tf.profiler.experimental.stop(save=False)
            return
        profiles = self._folder / "plugins" / "profile"
        before = {*profiles.glob("*")}
        try:
            with os_errors(self._folder):
                tf.profiler.experimental.stop()
        except OSError:
            for unfinished in {*profiles.glob("*")} - before:  # TensorFlow leaves it
                shutil.rmtree(unfinished, ignore_errors=True)
            raise
        written = profiles.glob("*/*.xplane.pb")
        self.path = max(written, key=lambda path: path.stat().st_mtime_ns)
        size = f"{(self.last_step - self.first_step) / self.num_dispatches:,.4g}"
        self.dispatch = f"a dispatch of {size} optimizer steps"
        text = f"{self.dispatch}: divide its times by {size} for those of one optimizer step."
        # XProf shows it above its pages. Bytes that are appended to a message add to its lists.
        warning = xplane_pb2.XSpace(warnings=[f"A step on these pages is {text}"])
        with replacing(self.path) as beside:
            beside.write_bytes(self.path.read_bytes() + warning.SerializeToString())

    def finish(self) -> str:
        """Ends the profile; says what was profiled."""
        self.stop()
        if self.path is None:
            told = f"no step was profiled: no dispatch began at step {self._first} or later"
            return f"{told}; name earlier steps, or set a smaller --steps-per-dispatch"
        told = f"the steps {self.first_step:,} to {self.last_step:,} were profiled: "
        return told + as_command(f"tensorboard {shlex.quote(str(self._folder))}")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop(save=kind is None)


class Event(NamedTuple):
    name: str
    start_ns: float
    end_ns: float
    part: str | None = None  # the part of an operation; None for other events
    on_gpu: bool = False


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """The time between the step markers, in milliseconds for all steps together."""

    ms: float  # the length of all step markers
    parts: dict[str, float]  # the time of each part of `PARTS`; the times add up to `ms`
    operations: list[tuple[str, str, float]]  # name, part and ms of each, the longest first
    on_gpu: bool  # whether the operations ran on a GPU


def read(path: Path) -> list[Event]:
    """Returns the events of a profile, the file `.../plugins/profile/TIME/HOST.xplane.pb`."""
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    parts = _parts_of_operations(space)
    events = []
    for plane in space.planes:
        on_gpu = plane.name.startswith("/device:GPU")
        for line in plane.lines:
            # Of a GPU only the streams: other lines ("XLA Ops") show the same time again.
            if plane.name != "/host:CPU" and not (on_gpu and line.name.startswith("Stream")):
                continue
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                part = OTHER if on_gpu else None
                stats = {plane.stat_metadata[stat.metadata_id].name: stat for stat in event.stats}
                if "hlo_op" in stats and "program_id" in stats:
                    name = plane.stat_metadata[stats["hlo_op"].ref_value].name
                    part = parts.get((stats["program_id"].int64_value, name), OTHER)
                start_ns = line.timestamp_ns + event.offset_ps / 1e3
                end_ns = start_ns + event.duration_ps / 1e3
                events.append(Event(name, start_ns, end_ns, part, on_gpu))
    return events


def _parts_of_operations(space: Any) -> dict[tuple[int, str], str | None]:
    """Returns the part of each operation, by program and name; None if it runs others."""
    parts: dict[tuple[int, str], str | None] = {}
    programs = (
        (number, hlo_pb2.HloProto.FromString(stat.bytes_value).hlo_module)
        for plane in space.planes
        if plane.name == "/host:metadata"
        for number, program in plane.event_metadata.items()
        for stat in program.stats
    )
    for number, module in programs:
        for computation in module.computations:
            # What XLA adds (copies, halves of reductions) has no scopes, and takes those of the
            # operation that uses it. Users come after what they use.
            inherited: dict[int, str] = {}
            for operation in reversed(computation.instructions):
                scopes = operation.metadata.op_name or inherited.get(operation.id, "")
                # The time of these is counted with the operations that they run.
                runs_others = operation.opcode in ("while", "conditional", "call")
                parts[number, operation.name] = None if runs_others else part_of(scopes)
                for operand in operation.operand_ids if scopes else ():
                    inherited.setdefault(operand, scopes)
    return parts


def part_of(scopes: str) -> str:
    """Returns the part of an operation by its name scopes: those of layers, of the training step
    and of the multi-hot product. A gradient has its operation's scopes behind `gradient_tape/`."""
    for pattern, part in _SCOPES.items():
        if re.search(rf"(^|/)({pattern})(_\d+)?/", scopes):
            if f"{part}, forward" in PARTS:
                return f"{part}, {'backward' if _BACKWARD.search(scopes) else 'forward'}"
            return part
    return OTHER


def divide(events: list[Event]) -> StepTimes:
    """Divides the time between the step markers; events that begin outside of them do not count.
    The time in which operations run belongs to them, in proportion to their own times, of which
    several may pass at once (on threads, streams or replicas). The rest is the host's."""
    markers = [event for event in events if event.name == STEP_MARKER]
    inside = [e for e in events if any(m.start_ns <= e.start_ns < m.end_ns for m in markers)]
    on_gpu = any(event.on_gpu for event in inside)  # then the host's operations are launches
    running = [e for e in inside if e.part is not None and e.on_gpu == on_gpu]
    waiting = [event for event in inside if event.name == INPUT_MARKER]
    times: defaultdict[tuple[str, str], float] = defaultdict(float)
    for event in running:
        times[event.name, event.part or OTHER] += event.end_ns - event.start_ns
    in_turn = _covered_ns(running) / max(1.0, sum(times.values()))
    parts = dict.fromkeys(PARTS, 0.0)
    for (_, part), ns in times.items():
        parts[part] += ns / 1e6 * in_turn
    covered_ns = _covered_ns([*running, *waiting])
    parts[INPUT] += (covered_ns - _covered_ns(running)) / 1e6
    ms = _covered_ns(markers) / 1e6
    parts[HOST] = max(0.0, ms - covered_ns / 1e6)
    ranked = sorted(times.items(), key=lambda item: -item[1])
    operations = [(name, part, ns / 1e6) for (name, part), ns in ranked]
    return StepTimes(ms=ms, parts=parts, operations=operations, on_gpu=on_gpu)


def _covered_ns(events: list[Event]) -> float:
    """Returns the time in which at least one of the events takes place."""
    covered, end_ns = 0.0, 0.0
    for event in sorted(events, key=lambda event: event.start_ns):
        covered += max(0.0, event.end_ns - max(event.start_ns, end_ns))
        end_ns = max(end_ns, event.end_ns)
    return covered


def print_profile(profiler: ProfilerObserver, console: Console, *, on_gpu: bool) -> bool:
    """Prints where the time of the profiled steps goes. Returns whether the profile has the GPU's
    events, if the steps ran on GPUs."""

    def say(text: str, style: str | None = None) -> None:
        console.print(Text(printable(text)), style=style, soft_wrap=True)

    console.print()
    assert profiler.path is not None
    times = divide(read(profiler.path))
    first, last = profiler.first_step, profiler.last_step
    say(
        f"profiled       {last - first:,} optimizer steps, {first:,} to {last:,}, in "
        f"{profiler.num_dispatches:,} dispatches (always whole, see --steps-per-dispatch)",
    )
    ms = times.ms / (last - first)
    say(f"step time      {ms:.3f} ms (a step on TensorBoard's Profile page is {profiler.dispatch})")
    if on_gpu:
        say("note: a profile launches each kernel by itself, where training replays CUDA graphs")

    def show(title: str, name: str, of: str, rows: Iterable[tuple[str, str, float]]) -> None:
        table = Table(name, box=SIMPLE, title=title, title_justify="left", title_style="bold")
        table.add_column("ms a step", justify="right")
        table.add_column("share", justify="right")
        table.add_column(of)
        for named, about, ms in rows:
            # As a Text: brackets in a name are no markup.
            table.add_row(Text(named), f"{ms / (last - first):.3f}", f"{ms / times.ms:.1%}", about)
        console.print(table)

    rows = [(part, PARTS[part], ms) for part, ms in times.parts.items() if ms > 0]
    show("where a step's time goes", "part", "contents", [*rows, ("in all", "", times.ms)])
    costliest = times.operations[:_NUM_OPERATIONS]
    show(f"the {_NUM_OPERATIONS} most expensive operations", "operation", "part", costliest)
    is_complete = times.on_gpu or not on_gpu
    if not is_complete:
        say(f"warning: {_CUPTI}", style="yellow")
    say(f"profile        {profiler.path}")
    folder = shlex.quote(str(profiler.path.parents[3]))
    say(f"open it        {as_command(f'tensorboard {folder}')}")
    return is_complete
