"""`harness profile`: trains some steps under TensorFlow's profiler, and prints their times."""

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from rich.console import Console

from harness.base.checks import Whole, require
from harness.base.interrupt import Interrupt
from harness.base.quiet import quiet_import
from harness.run.observers.console import ConsoleObserver
from harness.tools.experiment import ExperimentConfig, trainer_of
from harness.trainer.settings import Settings

_STEPS_PER_DISPATCH = 20  # with `auto`: several dispatches show how steady their times are


@dataclass(frozen=True, kw_only=True)
class ProfileConfig(ExperimentConfig):
    """Train a number of steps under TensorFlow's profiler; print where a step's time goes, and the
    costliest operations. TensorBoard shows the same profile."""

    execution: Settings = field(default_factory=Settings)
    run_dir: str = "runs/profile"
    """TensorBoard's log folder; each profile gets a folder of its own under plugins/profile/."""
    steps: Annotated[int, Whole()] = 60
    """Optimizer steps to profile, in whole dispatches. With --steps-per-dispatch auto a dispatch
    holds at most 20 of them here."""
    warm_up: Annotated[int, Whole(0)] = 60
    """Optimizer steps to train before the profile."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.run_dir != "", "--run-dir is empty; name a folder")


def profile(config: ProfileConfig) -> int:
    """Runs the command; returns 1 when there is no profile or it lacks the GPU."""
    with quiet_import():
        from harness.data.sources import load_configured
        from harness.run.profiling import ProfilerObserver, print_profile
        from harness.run.run_folder import claim
    console = Console()
    folder = Path(config.run_dir).absolute()
    last = config.warm_up + config.steps
    execution = config.execution
    if execution.steps_per_dispatch == "auto":
        steps_per_dispatch = min(_STEPS_PER_DISPATCH, config.steps)
        execution = replace(execution, steps_per_dispatch=steps_per_dispatch)
    with contextlib.ExitStack() as closing:
        claim(folder, closing, what="profile folder")
        data = load_configured(config.data)
        epochs = -(-last * execution.batch_size // data.train.num_rows)
        trainer = trainer_of(config, data, execution, epochs=epochs)
        steps = trainer.steps(data.train, epochs=epochs, console=console)
        start = replace(steps.start, run_dir=str(folder), steps_per_epoch=last, epochs=1)
        interrupt = closing.enter_context(Interrupt())
        shown = ConsoleObserver(console, tensorboard_dir=None)
        closing.callback(shown.close)
        shown.tell(start)
        for compilation in steps.compile():
            shown.tell(compilation)
        with ProfilerObserver(folder, config.warm_up, config.steps) as profiler:
            steps.run(
                until=lambda: profiler.path is not None or interrupt.requested,
                observers=[profiler, shown],
            )
        if profiler.path is None:
            return interrupt.exit_code
    is_complete = print_profile(profiler, console, on_gpu=trainer.devices.device_type == "GPU")
    if interrupt.requested:
        return interrupt.exit_code
    return 0 if is_complete else 1
