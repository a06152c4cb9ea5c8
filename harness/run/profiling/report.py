"""Prints a profile: where a step's time goes, and which operations cost most."""

import shlex
from collections.abc import Iterable

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
    times = divide(read(profiler.path))
    first, last = profiler.first_step, profiler.last_step
    _print(
        console,
        f"profiled       {last - first:,} steps, {first:,} to {last:,}, in "
        f"{profiler.num_dispatches:,} dispatches (always whole, see --steps-per-dispatch)",
    )

    def show(title: str, name: str, of: str, rows: Iterable[tuple[str, str, float]]) -> None:
        table = Table(name, box=SIMPLE, title=title, title_justify="left", title_style="bold")
        table.add_column("ms a step", justify="right")
        table.add_column("share", justify="right")
        table.add_column(of)
        for named, about, ms in rows:
            # As a Text: brackets in a name are no markup.
            cells = f"{ms / (last - first):.3f}", f"{ms / times.ms:.1%}", about
            table.add_row(Text(named), *cells)
        console.print(table)

    parts = {part: ms for part, ms in times.parts.items() if ms > 0} | {"in all": times.ms}
    rows = [(part, PARTS.get(part, ""), ms) for part, ms in parts.items()]
    show("where a step's time goes", "part", "contents", rows)
    title = f"the {_NUM_OPERATIONS} most expensive operations"
    show(title, "operation", "part", times.operations[:_NUM_OPERATIONS])
    problem = None
    if on_gpu and not times.on_gpu:
        problem = _CUPTI
    elif not parts.keys() - {INPUT, OTHER, HOST, "in all"}:
        problem = _NO_NAMES
    if problem is not None:
        _print(console, f"warning: {problem}", style="yellow")
    _print(console, f"profile        {profiler.path}")
    folder = shlex.quote(str(profiler.path.parents[3]))
    _print(console, f"open it        {as_command(f'tensorboard {folder}')}")
    return problem is None


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(Text(printable(text)), style=style, soft_wrap=True)
