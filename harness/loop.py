"""The training loop: windows, cadence, the one host sync of each, and who is told.

It drives an engine through the few methods below and sees nothing but records, so that it can be
read, and tested, without a device.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from harness.history import History
from harness.records import (
    Compilation,
    Evaluation,
    Inspection,
    Observer,
    Progress,
    StepSums,
    Window,
)


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

    def prepare(self, dispatch: Any, batches: Any) -> Compilation | None:
        """Compiles for these shapes, if need be."""

    def train(self, dispatch: Any, batches: Any) -> Any:
        """Starts a dispatch."""

    def fetch(self, sums: Any) -> StepSums:
        """Waits for it."""

    def evaluate(self, *, step: int, epoch: int) -> tuple[Evaluation, Compilation | None]:
        """Evaluates on the held-out rows."""

    def inspect(self, dispatch: Any, batches: Any) -> tuple[Inspection | None, Compilation | None]:
        """Looks at the gradients of a batch, if it is time to."""

    def save(self, step: int) -> bool:
        """Begins to save a checkpoint, unless a weight is not finite; returns whether it does."""


def train(
    dispatches: Iterable[tuple[PlannedDispatch, Any]],
    engine: Engine,
    observers: Sequence[Observer],
    *,
    steps_per_epoch: int,
    start_step: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    stop_at_nan: bool = False,
    on_late_compilation: Callable[[Compilation], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Progress:
    """Runs all dispatches; evaluates and saves a checkpoint at the end of every epoch.

    A state whose loss is not finite is never saved, so that the last checkpoint stays a good one.

    Args:
        dispatches: each with its batches, in order; asking for the next one may block.
        engine: runs them.
        observers: told of everything, in order.
        steps_per_epoch: to know where an epoch ends.
        start_step: steps that were done before.
        should_stop: asked after every dispatch; a run that is stopped saves a checkpoint.
        stop_at_nan: whether a loss that is not finite ends the run; else it is a warning.
        on_late_compilation: told of a training step compiled after the first epoch of this process.
        clock: seconds; handed in so that tests need no sleep.
    """
    history = History(observers, start_step=start_step, stop_at_nan=stop_at_nan)
    interrupted = False
    # A window lasts from the sync before to its own: what observers take counts, compilations and
    # evaluations do not. Of a checkpoint only what holds the loop up does not: what is written
    # meanwhile takes its share of the processor.
    remaining = iter(dispatches)
    window_start = clock()
    while not interrupted and not history.must_stop:
        wait_start = clock()
        ready = next(remaining, None)
        data_wait = clock() - wait_start
        if ready is None:
            break
        dispatch, batches = ready
        compilation = engine.prepare(dispatch, batches)
        window_start += history.compilation(compilation)
        if compilation and dispatch.step >= start_step + steps_per_epoch:
            on_late_compilation(compilation)

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
                accuracy=sums.hits / dispatch.examples,
                loss_scale=sums.loss_scale,
                skipped_steps=sums.skipped_steps,
                ended_at_seconds=window_end,
            )
        )
        window_start = window_end
        if history.must_stop:
            break

        interrupted = should_stop()
        pause_start = clock()
        at_epoch_end = step % steps_per_epoch == 0
        if at_epoch_end:
            history.evaluation(*engine.evaluate(step=step, epoch=dispatch.epoch))
            history.inspection(*engine.inspect(dispatch, batches))
        if (at_epoch_end or interrupted) and history.divergence is None:
            history.saved(engine.save(step))
        window_start += clock() - pause_start

    return history.progress(interrupted=interrupted)
