"""Prints a profile: where a step's time goes, and which operations cost most."""

import shlex

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.base.errors import as_command, printable
from harness.run.profiling.profiler import ProfilerObserver
from harness.run.profiling.step_times import HOST, INPUT, OTHER, PARTS, divide, read

_NUM_OPERATIONS = 10
_CUPTI = (
    "the profile has no events of the GPU: CUPTI, NVIDIA's profiling library, was refused or is "
    "missing. Usually only administrators may profile: run as root (in a container with --cap-add "
    "SYS_ADMIN), or load the kernel module with NVreg_RestrictProfilingToAdminUsers=0. "
    "TF_CPP_MIN_LOG_LEVEL=0 shows CUPTI's own message."
)
_NO_NAMES = (
    "no operation has the name scope of its part. TensorFlow's persistent cache of "
    "compiled programs drops them: profile without --tf_xla_persistent_cache_directory in "
    "TF_XLA_FLAGS."
)


def print_profile(profiler: ProfilerObserver, console: Console, *, on_gpu: bool) -> bool:
    """Prints where the time of the profiled steps goes.

    Args:
        profiler: the observer of a run that has ended.
        console: where to print.
        on_gpu: whether the steps ran on GPUs, so that their events have to be there.

    Returns:
        Whether there is a profile, with the GPU's events and the names of its operations.
    """
    console.print()
    if profiler.path is None:
        _print(console, "the run ended before a step to profile: there is no profile")
        return False
    num_steps = profiler.last_step - profiler.first_step
    times = divide(read(profiler.path))
    _print(
        console,
        f"profiled       {num_steps:,} steps, {profiler.first_step:,} to {profiler.last_step:,}, "
        f"in {profiler.num_dispatches:,} dispatches (always whole, see --steps-per-dispatch)",
    )
    table = _table("where a step's time goes", "part", "ms a step", "share", "contents")
    for part, ms in {**times.parts, "in all": times.ms}.items():
        if ms > 0:
            table.add_row(part, *_time(ms, times.ms, num_steps), PARTS.get(part, ""))
    console.print(table)
    title = f"the {_NUM_OPERATIONS} most expensive operations"
    table = _table(title, "operation", "ms a step", "share", "part")
    for name, part, ms in times.operations[:_NUM_OPERATIONS]:
        # As a Text: brackets in a name are no markup.
        table.add_row(Text(name), *_time(ms, times.ms, num_steps), part)
    console.print(table)
    problem = None
    if on_gpu and not times.on_gpu:
        problem = _CUPTI
    elif not any(ms for part, ms in times.parts.items() if part not in (INPUT, OTHER, HOST)):
        problem = _NO_NAMES
    if problem is not None:
        _print(console, f"warning: {problem}", style="yellow")
    _print(console, f"profile        {profiler.path}")
    folder = shlex.quote(str(profiler.path.parents[3]))
    _print(console, f"open it        {as_command(f'tensorboard {folder}')}")
    return problem is None


def _time(ms: float, of_ms: float, num_steps: int) -> tuple[str, str]:
    return f"{ms / num_steps:.3f}", f"{ms / of_ms:.1%}"


def _table(title: str, *headings: str) -> Table:
    table = Table(box=SIMPLE, title=title, title_justify="left", title_style="bold")
    for heading in headings:
        is_number = heading in ("ms a step", "share")
        table.add_column(heading, justify="right" if is_number else "left")
    return table


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(Text(printable(text)), style=style, soft_wrap=True)
