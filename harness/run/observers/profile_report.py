"""Prints a profile: where a step's time goes, and which operations cost most."""

import shlex

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.base.errors import as_command, printable
from harness.run.observers.breakdown import PARTS, SCOPED, break_down
from harness.run.observers.profiler import Capture, ProfilerObserver
from harness.run.observers.trace import INSTALL, ConversionError, is_readable, read

_NUM_OPERATIONS = 10
_CUPTI = (
    "the profile has no events of the GPU: CUPTI, NVIDIA's profiling library, was refused "
    "or is missing. Usually only administrators may profile: run as root, start the container with "
    "--cap-add=SYS_ADMIN, or load the kernel module with `options nvidia "
    "NVreg_RestrictProfilingToAdminUsers=0` (a line for /etc/modprobe.d/, then reboot). "
    "TF_CPP_MIN_LOG_LEVEL=0 shows CUPTI's own message."
)
_NO_NAMES = (
    "no operation has the name scope of its part. TensorFlow's persistent cache of "
    "compiled programs drops them: profile without --tf_xla_persistent_cache_directory in "
    "TF_XLA_FLAGS."
)


def print_profile_of_run(profiler: ProfilerObserver, console: Console, *, on_gpu: bool) -> None:
    """Prints the profile of --profile-steps, and how its steps differ from those asked for."""
    console.print()
    if profiler.capture is None:
        console.print("the run ended before a step to profile: there is no profile")
        return
    first, last = profiler.asked_for
    held = (profiler.capture.first_step, profiler.capture.last_step)
    if held != (first, last) and held[1] >= last:  # else the run ended before
        _print(
            console,
            f"--profile-steps {first}:{last} lies in the dispatches of steps {held[0]}:{held[1]}, "
            "which are profiled whole; make them shorter by --steps-per-dispatch",
        )
    print_profile(profiler.capture, console, on_gpu=on_gpu, ms_without=profiler.ms_without)


def print_profile(
    capture: Capture, console: Console, *, on_gpu: bool, ms_without: float | None
) -> bool:
    """Prints what a profile shows, or what to install to see it.

    Args:
        capture: the profile that was written.
        console: where to print.
        on_gpu: whether the steps ran on GPUs, so that their events have to be there.
        ms_without: a step's time without the profiler, in milliseconds; None if not measured.

    Returns:
        Whether the profile could be read and is complete; also True if xprof is not installed.
    """
    problem = None
    if is_readable():
        problem = _print_breakdown(capture, console, on_gpu=on_gpu, ms_without=ms_without)
    else:
        _print(console, f"the breakdown of a step needs xprof: {INSTALL}")
    if problem is not None:
        _print(console, f"warning: {problem}", style="yellow")
    _print(console, f"profile        {capture.path}")
    folder = capture.path.parents[3]
    _print(console, f"open it        {as_command(f'tensorboard {shlex.quote(str(folder))}')}")
    return problem is None


def _print_breakdown(
    capture: Capture, console: Console, *, on_gpu: bool, ms_without: float | None
) -> str | None:
    """Prints the breakdown of a step; returns what is wrong with the profile, if anything."""
    try:
        breakdown = break_down(read(capture.path))
    except ConversionError as error:
        return str(error)
    steps, dispatches = capture.num_steps, len(capture.dispatches)
    sizes = sorted(set(capture.dispatches))
    shown = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    _print(
        console,
        f"profiled       {steps:,} steps, {capture.first_step:,} to {capture.last_step:,}, in "
        f"{'one dispatch' if dispatches == 1 else f'{dispatches:,} dispatches'} of {shown}",
    )
    ms = breakdown.ms / steps
    without = "" if ms_without is None else f"; {ms_without:.3f} ms without it"
    _print(console, f"step time      {ms:.3f} ms under the profiler{without}")
    table = _table("where a step's time goes", "part", "ms a step", "share", "")
    parts = {part: ms for part, ms in breakdown.parts.items() if ms > 0}
    for part, ms in {**parts, "in all": sum(parts.values())}.items():
        table.add_row(part, f"{ms / steps:.3f}", f"{ms / breakdown.ms:.1%}", PARTS.get(part, ""))
    console.print(table)
    title = f"the {_NUM_OPERATIONS} most expensive operations"
    table = _table(title, "operation", "part", "a step", "ms a step", "share")
    for operation in breakdown.operations[:_NUM_OPERATIONS]:
        table.add_row(
            Text(operation.name),  # brackets in a name are no markup
            operation.part,
            f"{operation.count / steps:.3g}",
            f"{operation.ms / steps:.3f}",
            f"{operation.ms / breakdown.ms:.1%}",
        )
    console.print(table)
    if on_gpu and not breakdown.on_device:
        return _CUPTI
    return None if any(breakdown.parts[part] for part in SCOPED) else _NO_NAMES


def _table(title: str, *headings: str) -> Table:
    table = Table(
        box=SIMPLE, title=title, title_justify="left", title_style="bold", padding=(0, 1, 0, 0)
    )
    for heading in headings:
        is_number = heading in ("a step", "ms a step", "share")
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=heading != "")
    return table


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(Text(printable(text)), style=style, soft_wrap=True)
