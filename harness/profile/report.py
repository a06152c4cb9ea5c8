"""A profile in the terminal: what was captured, where a step's time goes, what costs most."""

import shlex

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.observers.profiler import Capture
from harness.profile.breakdown import Breakdown, break_down
from harness.profile.parts import PARTS, SCOPED
from harness.profile.trace import INSTALL, ConversionError, Trace, is_readable, read

_NUM_OPERATIONS = 10
_CUPTI = (
    "warning: the profile holds nothing of the GPU: CUPTI, NVIDIA's profiling library, was refused "
    "or not found. Usually profiling is for administrators only: let the kernel module be loaded "
    "with `options nvidia NVreg_RestrictProfilingToAdminUsers=0` (a line for /etc/modprobe.d/, "
    "then restart), run as root, or start the container with --cap-add=SYS_ADMIN. Another profiler "
    "on the same GPU, or a CUDA installation without extras/CUPTI/lib64, looks the same; "
    "TF_CPP_MIN_LOG_LEVEL=0 shows CUPTI's own message."
)

_NO_NAMES = (
    "warning: no operation carries the scope of its part. A compiled program that TensorFlow reads "
    "from its persistent cache has lost them: profile without --tf_xla_persistent_cache_directory "
    "in TF_XLA_FLAGS."
)


def print_profile(
    capture: Capture, console: Console, *, on_gpu: bool, ms_without: float | None
) -> bool:
    """Prints what a profile says, or what to install to see it.

    Args:
        capture: the profile that was written.
        console: where to print.
        on_gpu: whether the steps ran on GPUs, so that their events have to be there.
        ms_without: a step's time without the profiler, where it was measured.

    Returns:
        Whether the profile could be read and is complete.
    """
    complete = True
    if not is_readable():
        _print(console, f"the breakdown of a step needs xprof: {INSTALL}")
    else:
        try:
            trace = read(capture.path)
        except ConversionError as error:
            _print(console, f"warning: {error}", style="yellow")
            complete = False
        else:
            breakdown = break_down(trace)
            _print_breakdown(capture, breakdown, trace, console, ms_without)
            if on_gpu and not breakdown.on_device:
                _print(console, _CUPTI, style="yellow")
                complete = False
            elif not any(breakdown.parts[part] for part in SCOPED):
                _print(console, _NO_NAMES, style="yellow")
                complete = False
    _print(console, f"profile        {capture.path}")
    folder = capture.path.parents[3]
    _print(console, f"look at it     harness tensorboard {shlex.quote(str(folder))}")
    return complete


def _print_breakdown(
    capture: Capture,
    breakdown: Breakdown,
    trace: Trace,
    console: Console,
    ms_without: float | None,
) -> None:
    steps, windows = capture.num_steps, capture.windows
    sizes = sorted({window.num_steps for window in windows})
    shown = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    _print(
        console,
        f"profiled       {steps:,} steps, {capture.first_step:,} to {capture.last_step:,}, in "
        f"{'one dispatch' if len(windows) == 1 else f'{len(windows):,} dispatches'} of {shown}"
        f"{'; a step in TensorBoard is a dispatch' if trace.overview else ''}",
    )
    ms = breakdown.ms / steps
    without = "" if ms_without is None else f"; {ms_without:.3f} ms without it"
    _print(console, f"step time      {ms:.3f} ms under the profiler{without}")
    console.print(_parts_table(breakdown, steps))
    _print(console, _overview_line(trace))
    console.print(_operations_table(breakdown, steps))


def _parts_table(breakdown: Breakdown, steps: int) -> Table:
    table = _table("where a step's time goes", "part", ">ms a step", ">share", "~")
    for part, what in PARTS.items():
        ms = breakdown.parts[part]
        if ms > 0:
            table.add_row(part, f"{ms / steps:.3f}", f"{ms / breakdown.ms:.1%}", what)
    total = sum(breakdown.parts.values())
    table.add_row("in all", f"{total / steps:.3f}", f"{total / breakdown.ms:.1%}", end_section=True)
    return table


def _operations_table(breakdown: Breakdown, steps: int) -> Table:
    title = f"the {_NUM_OPERATIONS} most expensive operations"
    table = _table(title, "operation", "part", ">a step", ">ms a step", ">share")
    for operation in breakdown.operations[:_NUM_OPERATIONS]:
        table.add_row(
            Text(operation.name),  # brackets in it are no markup
            operation.part,
            f"{operation.count / steps:.3g}",
            f"{operation.ms / steps:.3f}",
            f"{operation.ms / breakdown.ms:.1%}",
        )
    return table


def _overview_line(trace: Trace) -> str:
    """What TensorBoard's overview page makes of the same steps, by its own categories."""
    if not trace.overview:
        # Of several replicas: xprof takes TensorFlow's loop around them for the steps' own.
        return "TensorBoard's overview shows no steps of this profile; its trace viewer has them."
    steps = trace.overview.values()
    total = sum(step["Step time"] for step in steps)
    names = [name for name in next(iter(steps)) if name != "Step time"]
    shares = {name: sum(step[name] for step in steps) / total for name in names}
    shown = ", ".join(f"{name.lower()} {share:.1%}" for name, share in shares.items() if share > 0)
    return f"TensorBoard's overview calls it {shown}."


def _table(title: str, *headings: str) -> Table:
    """A heading that begins with > stands over figures; what stands under ~ may be wrapped."""
    table = Table(
        box=SIMPLE, title=title, title_justify="left", title_style="bold", padding=(0, 1, 0, 0)
    )
    for heading in headings:
        table.add_column(
            Text(heading.strip(">~")),
            justify="right" if heading.startswith(">") else "left",
            no_wrap=not heading.startswith("~"),
        )
    return table


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(Text(text), style=style, soft_wrap=True)
