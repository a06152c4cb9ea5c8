"""`harness train --profile-steps`: a profile of some of a run's steps."""

import statistics
from pathlib import Path

from rich.console import Console

from harness.commands.tensorboard_folder import tensorboard_folder
from harness.config import OutputConfig
from harness.config.profile import step_range
from harness.errors import InputError
from harness.observers.profiler import ProfilerObserver
from harness.observers.tensorboard import FOLDER_NAME
from harness.profile.report import print_profile
from harness.records import Progress, RunStart


def profiler_of_run(
    config: OutputConfig, run_folder: Path, start: RunStart
) -> ProfilerObserver | None:
    """What captures the steps that are asked for; None where none are.

    The profile goes where the run's event files are, or would be.

    Raises:
        InputError: when the run has no such steps, or has done them already.
    """
    if config.profile_steps is None:
        return None
    first, last = step_range("--profile-steps", config.profile_steps)
    if last > start.total_steps:
        raise InputError(
            f"--profile-steps is {first}:{last}, but the run ends after step {start.total_steps} "
            f"({start.epochs} epochs of {start.steps_per_epoch}); name earlier steps, or set "
            "--epochs to more"
        )
    if first < start.start_step:
        raise InputError(
            f"--profile-steps is {first}:{last}, but the run goes on after step "
            f"{start.start_step}; name later steps"
        )
    folder = tensorboard_folder(config, run_folder) or run_folder / FOLDER_NAME
    return ProfilerObserver(folder.absolute(), first=first, last=last)


def print_profile_of_run(
    profiler: ProfilerObserver, progress: Progress, console: Console, *, on_gpu: bool
) -> None:
    """Prints what the profile says, beside the time of a step in the rest of the run."""
    console.print()
    if profiler.capture is None:
        console.print("the run ended before a step to profile: there is no profile")
        return
    first, last = profiler.asked_for
    windows = profiler.capture.windows
    held = (profiler.capture.first_step, profiler.capture.last_step)
    if held[1] < last:
        said = f"the run ended within --profile-steps {first}:{last}: the profile ends with it"
        console.print(said, soft_wrap=True, highlight=False)
    elif held != (first, last):
        console.print(
            f"--profile-steps {first}:{last} lies in the dispatches of steps {held[0]}:{held[1]}, "
            "which are profiled whole; shorter ones: --steps-per-dispatch",
            soft_wrap=True,
            highlight=False,
        )
    captured = {window.first_step for window in windows}
    without = [
        window.step_time_ms
        for window in progress.windows[1:]  # the first begins cold
        if window.step - window.num_steps not in captured
    ]
    print_profile(
        profiler.capture,
        console,
        on_gpu=on_gpu,
        ms_without=statistics.median(without) if without else None,
    )
