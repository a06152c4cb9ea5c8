"""`harness profile`: a stretch of training under TensorFlow's profiler, and what it says."""

import contextlib
import dataclasses
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.commands.interrupt import EXIT_INTERRUPTED, Interrupt
from harness.commands.run_folder import CHECKPOINT_FOLDER_NAME, check_writable
from harness.commands.session import build_session
from harness.commands.train import run_start
from harness.config import TrainConfig
from harness.config.profile import ProfileConfig
from harness.errors import InputError
from harness.loop import train as run_loop
from harness.observers.profiler import ProfilerObserver
from harness.observers.report import compilation_line, starting_rows
from harness.profile.report import print_profile
from harness.records import Compilation, Observer, RunStart, Window

_STEPS_PER_DISPATCH = 20
"""At most, where it is left to the harness: past it the cost of a call no longer shows, and several
dispatches show how steady they are."""


def profile(config: ProfileConfig, console: Console | None = None) -> int:
    """Runs the command.

    Returns:
        Its exit code: 1 when the profile lacks the GPU or could not be read, 130 when interrupted.

    Raises:
        InputError: when the settings do not fit the data, the devices or the folder.
        OSError: when the disk is full, naming the folder.
    """
    console = console or Console()
    folder = Path(config.profile_dir).absolute()
    try:
        check_writable(folder)
    except OSError as error:
        raise InputError(
            f"profile folder {folder} cannot be written to ({error.strerror}); name another by "
            "--profile-dir"
        ) from error
    train_config = _train_config(config)
    session = build_session(train_config, checkpoint_dir=folder / CHECKPOINT_FOLDER_NAME)
    last = config.warm_up + config.steps
    epochs = -(-last // session.plan.steps_per_epoch)
    start = run_start(dataclasses.replace(train_config, epochs=epochs), session, folder, 0)
    profiler = ProfilerObserver(folder, first=config.warm_up, last=last)
    steady = _Steady(until=config.warm_up)
    with Interrupt() as interrupt, contextlib.ExitStack() as closing:
        observers: list[Observer] = [session.steps, profiler, steady, _Lines(console)]
        for observer in observers:
            closing.callback(observer.close)
        for observer in observers:
            observer.on_start(start)
        run_loop(
            _until(profiler, interrupt, profiler.marked(session.dispatches(epochs=epochs))),
            session.engine,
            observers,
            # No epoch ends: there is nothing to evaluate or to save.
            steps_per_epoch=epochs * session.plan.steps_per_epoch + 1,
        )
        profiler.finish()
    if profiler.capture is None:
        console.print("interrupted before a step to profile: nothing was written")
        return EXIT_INTERRUPTED
    complete = print_profile(
        profiler.capture,
        console,
        on_gpu=session.devices.device_type == "GPU",
        ms_without=steady.step_time_ms,
    )
    if profiler.capture.last_step < last:
        console.print("interrupted: the profile holds what was trained until then")
        return EXIT_INTERRUPTED
    return 0 if complete else 1


def _train_config(config: ProfileConfig) -> TrainConfig:
    execution = config.execution
    if execution.steps_per_dispatch == "auto":
        steps = min(_STEPS_PER_DISPATCH, config.steps)
        execution = dataclasses.replace(execution, steps_per_dispatch=steps)
    return TrainConfig(
        data=config.data, model=config.model, optimizer=config.optimizer, execution=execution
    )


def _until(
    profiler: ProfilerObserver, interrupt: Interrupt, dispatches: Iterator[tuple[Any, Any]]
) -> Iterator[tuple[Any, Any]]:
    """The dispatches up to the last that is profiled."""
    for ready in dispatches:
        yield ready
        if profiler.capture is not None or interrupt.requested:
            return


class _Steady(Observer):
    """The time of a step before the profiler runs."""

    def __init__(self, *, until: int) -> None:
        self._until = until
        self._step_times_ms: list[float] = []

    @property
    def step_time_ms(self) -> float | None:
        """The median over dispatches, without the first, which begins cold; None without others."""
        return statistics.median(self._step_times_ms[1:]) if self._step_times_ms[1:] else None

    def on_window(self, window: Window) -> None:
        if window.step <= self._until:
            self._step_times_ms.append(window.step_time_ms)


class _Lines(Observer):
    """Says what is profiled."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_start(self, run: RunStart) -> None:
        for name, value in starting_rows(run):
            if name not in ("steps", "steps/dispatch", "run folder"):
                self._print(f"{name:<15}{value}")

    def on_compilation(self, compilation: Compilation) -> None:
        self._print(compilation_line(compilation))

    def on_warning(self, message: str) -> None:
        self._print(f"warning: {message}")

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
