"""The training loop: windows, their one host sync, and what happens at the end of an epoch.

It drives an engine through the few methods below and sees nothing but records, so it can be read
and tested without a device.
"""

import time
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, Protocol

from harness.history import History, Progress
from harness.records import (
    Compilation,
    Evaluation,
    Inspection,
    Observer,
    StepSums,
    Telemetry,
    Window,
)

_NO_TELEMETRY = Telemetry()


class PlannedDispatch(Protocol):
    """What the loop needs to know of a dispatch before it runs."""

    @property
    def epoch(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def examples(self) -> int: ...
    @property
    def tokens(self) -> int: ...


class Engine(Protocol):
    """What the loop drives."""

    def prepare(self, dispatch: Any, batches: Any) -> Sequence[Compilation]:
        """Compiles what is not compiled yet."""

    def warnings(self) -> Sequence[str]:
        """What compiling has shown that the user should know, once."""

    def train(self, dispatch: Any, batches: Any) -> Any:
        """Starts a dispatch."""

    def fetch(self, sums: Any) -> StepSums:
        """Waits for it."""

    def ended(self, window: Window) -> None:
        """Adapts the length of the next dispatch to how long this one took."""

    def evaluate(self, *, step: int, epoch: int) -> tuple[Evaluation | None, Sequence[Compilation]]:
        """Evaluates on the held-out rows, if there are any."""

    def inspect(
        self, dispatch: Any, batches: Any
    ) -> tuple[Inspection | None, Sequence[Compilation]]:
        """Looks at the gradients of a batch, if it is time to."""

    def save(self, step: int) -> bool:
        """Begins to save a checkpoint, unless a weight is not finite; returns whether it does."""


def train(
    dispatches: Iterable[tuple[PlannedDispatch, Any]],
    engine: Engine,
    observers: Sequence[Observer],
    *,
    steps_per_epoch: int,
    telemetry: Telemetry = _NO_TELEMETRY,
    running: Container[str] = (),
    compiled: Sequence[Compilation] = (),
    start_step: int = 0,
    num_steps: int | None = None,
    is_done: Callable[[], bool] = lambda: False,
    should_stop: Callable[[], bool] = lambda: False,
    stop_at_nan: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Progress:
    """Runs all dispatches, or those of some steps; evaluates and saves a checkpoint at the end of
    every epoch.

    A run that is resumed after its last step has no dispatch; it only evaluates.

    A state whose loss is not finite is never saved, so that the last checkpoint stays a good one.

    Args:
        dispatches: each with its batches, in order; asking for the next one may block.
        engine: runs them.
        observers: receive every record, in order.
        telemetry: joined with the windows.
        running: metrics whose value is that of the epoch so far, not of the window.
        compiled: what was compiled before, to be told first.
        steps_per_epoch: to know where an epoch ends.
        start_step: steps that were done before.
        num_steps: ends after the dispatch in which so many steps are done; None: after the last.
        is_done: asked after every dispatch; ends the run as if it had been the last.
        should_stop: asked after every dispatch; a run that is stopped saves a checkpoint.
        stop_at_nan: whether a loss that is not finite ends the run; else it is a warning.
        clock: seconds; handed in so that tests need no sleep.
    """
    history = History(observers, telemetry, running, start_step=start_step, stop_at_nan=stop_at_nan)
    history.compiled(compiled)
    interrupted = False
    steps_done = 0
    # A window lasts from the sync before it to its own. It includes the time of observers, but no
    # compilation, no evaluation, and no time for which a checkpoint holds up the loop. The rest of
    # a checkpoint is written while training goes on, and takes its share of the processor.
    remaining = iter(dispatches)
    window_start = clock()
    while not interrupted and not history.must_stop:
        history.waiting()
        wait_start = clock()
        ready = next(remaining, None)
        data_wait = clock() - wait_start
        if ready is None:
            break
        history.ready()
        dispatch, batches = ready
        window_start += history.compiled(engine.prepare(dispatch, batches))
        history.warn(engine.warnings())

        sums = engine.fetch(engine.train(dispatch, batches))  # the window's one host sync
        window_end = clock()
        step = dispatch.step + dispatch.num_steps
        history.window(
            Window(
                step=step,
                epoch=dispatch.epoch,
                num_steps=dispatch.num_steps,
                examples=dispatch.examples,
                tokens=dispatch.tokens,
                seconds=window_end - window_start,
                data_wait_seconds=data_wait,
                loss=sums.loss / dispatch.examples,
                metrics=sums.metrics,
                loss_scale=sums.loss_scale,
                skipped_steps=sums.skipped_steps,
                ended_at_seconds=window_end,
                telemetry=history.telemetry(window_start, window_end),
            )
        )
        engine.ended(history.last_window)
        window_start = window_end
        steps_done += dispatch.num_steps
        if history.must_stop:
            break

        interrupted = should_stop()
        pause_start = clock()
        at_epoch_end = step % steps_per_epoch == 0
        if at_epoch_end:
            history.epoch(dispatch.epoch, *engine.evaluate(step=step, epoch=dispatch.epoch))
            history.inspection(*engine.inspect(dispatch, batches))
        if (at_epoch_end or interrupted) and history.divergence is None:
            history.saved(engine.save(step))
        window_start += clock() - pause_start
        if is_done() or (num_steps is not None and steps_done >= num_steps):
            break

    if start_step > 0 and history.is_empty:
        epoch = start_step // steps_per_epoch - 1
        history.epoch(epoch, *engine.evaluate(step=start_step, epoch=epoch))
    return history.end(interrupted=interrupted)
