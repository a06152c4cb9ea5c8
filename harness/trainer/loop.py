"""The training loop: windows, their one host sync, and what happens at the end of an epoch."""

import itertools
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.feed.batch import BatchesByRows
from harness.feed.cadence import Cadence
from harness.feed.feed import Dispatches, Feed
from harness.feed.plan import Dispatch, Plan
from harness.program.checkpoints import Checkpoints
from harness.program.engine import Engine
from harness.program.inspection import NO_LOOKS, Looks
from harness.program.saving import Every, Saving
from harness.run.history import Counters, History, Progress, Telemetry
from harness.run.records import (
    Compilation,
    Evaluation,
    Inspection,
    Observer,
    RunStart,
    StepSums,
    Window,
)
from harness.task.measures import Measures
from harness.workers.cluster import Cluster

_NO_TELEMETRY = Telemetry()
_NO_COUNTERS = Counters()
_ENDLESS = 2**40
"""Epochs, and steps of one that never ends."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows that lie ready, and how they are divided."""

    feed: Feed
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the loop drives: an engine with the rows of one training, and its checkpoints."""

    engine: Engine
    rows: Rows
    """To train on."""
    validation: Rows | None = None
    """To evaluate on at the end of every epoch."""
    evaluation: Callable[..., tuple[Evaluation | None, Sequence[Compilation]]] | None = None
    """Called in the place of `Engine.evaluate`, so that callbacks know of it; may leave it out."""
    measures: Measures | None = None
    """Of the validation rows, as of the last evaluation."""
    cadence: Cadence
    looks: Looks = NO_LOOKS
    """When gradients are looked at."""
    checkpoints: Checkpoints | None = None
    """Where the state is saved."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Of the run; each checkpoint holds it."""
    start_step: int = 0
    """Steps that were done before."""
    may_change: bool = False
    """Whether anything but training may change the weights."""

    def dispatches(self, *, epochs: int) -> Dispatches:
        """Those up to the end of an epoch, counted from the first of all."""
        return self.rows.feed.dispatches(
            self.rows.plan,
            epochs=epochs,
            start_step=self.start_step,
            calls=lambda: self.cadence.num_calls,
        )

    def prepare(self, dispatch: Dispatch, batches: BatchesByRows) -> Sequence[Compilation]:
        """Compiles what is not compiled yet; with the first dispatch the evaluation, too."""
        held_out = self.validation if dispatch.step == self.start_step else None
        return self.engine.prepare(
            self.rows.plan,
            dispatch,
            batches,
            start_step=self.start_step,
            evaluation=None if held_out is None else (held_out.feed, held_out.plan),
        )

    def warnings(self) -> Sequence[str]:
        """Weights that compiling has shown the loss not to depend on, once."""
        unused = self.engine.take_unused()
        if not unused:
            return ()
        names = ", ".join(unused)
        return (f"the loss does not depend on {names}: training leaves them as they are",)

    def train(self, dispatch: Dispatch, batches: BatchesByRows) -> StepSums:
        """Runs a dispatch and waits for it: a window's one host sync."""
        return self.engine.train(dispatch, batches)

    def ended(self, window: Window) -> None:
        """Adapts the length of the next dispatch to how long this one took."""
        self.cadence.after(window)

    def agree(self, cluster: Cluster, *, wish: int) -> int:
        """The signal that told one of the workers to stop, 0 for none; the next dispatch gets the
        chief's length. Asked after every dispatch."""
        if cluster.is_alone:
            return wish
        told, num_calls = cluster.most([wish, self.cadence.num_calls if cluster.is_chief else 0])
        self.cadence.num_calls = num_calls
        return told

    def evaluate(self, *, step: int, epoch: int) -> tuple[Evaluation | None, Sequence[Compilation]]:
        """Evaluates on the validation rows, if there are any."""
        if self.validation is None:
            return None, ()
        rows = self.validation
        evaluate = self.evaluation or self.engine.evaluate
        return evaluate(
            rows.feed,
            rows.plan,
            step=step,
            epoch=epoch,
            measures=self.measures,
            with_checksum=self.may_change,
        )

    def is_current(self, evaluation: Evaluation | None, *, step: int) -> bool:
        """Whether an evaluation is of the present weights, after so many steps."""
        if evaluation is None or evaluation.step != step:
            return False
        return evaluation.checksum is None or evaluation.checksum == self.engine.checksum()

    def inspect(
        self, dispatch: Dispatch, batches: BatchesByRows
    ) -> tuple[Inspection | None, Sequence[Compilation]]:
        """Looks at the gradients of a batch, if it is time to."""
        return self.engine.inspect(dispatch, batches, self.looks)

    def save(
        self,
        step: int,
        counters: Counters = _NO_COUNTERS,
        *,
        regular: bool = True,
        best: bool = False,
    ) -> bool:
        """Begins to save a checkpoint, unless a weight is not finite; returns whether all are.

        Args:
            step: steps done.
            counters: recorded with it.
            regular, best: as of `Checkpoints.save`.
        """
        if not self.engine.states[0].is_finite():
            return False
        if self.checkpoints is not None:
            about = {**self.about, "counters": asdict(counters)}
            self.checkpoints.save(step, about, regular=regular, best=best)
        return True


def train(
    dispatches: Iterable[tuple[Dispatch, BatchesByRows]],
    run: Run,
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
    saving: Saving | None = None,
    keep_best: bool = False,
    decided: Callable[[Sequence[bool]], Sequence[bool]] = list,
    before: Counters = _NO_COUNTERS,
    clock: Callable[[], float] = time.perf_counter,
) -> Progress:
    """Runs all dispatches, or those of some steps; evaluates at the end of every epoch, and saves
    checkpoints.

    A run that is resumed after its last step has no dispatch; it only evaluates.

    A state whose loss is not finite is never saved, so that the last checkpoint stays a good one.

    Args:
        dispatches: each with its batches, in order; asking for the next one may block.
        run: runs them.
        observers: receive every record, in order.
        telemetry: joined with the windows.
        running: metrics whose value is that of the epoch so far, not of the window.
        compiled: what was compiled before, to be told first.
        steps_per_epoch: to know where an epoch ends.
        start_step: steps that were done before.
        num_steps: ends after the dispatch in which so many steps are done; None: after the last.
        is_done: asked after every dispatch and every epoch; ends the epoch, evaluated as always,
            and the run.
        should_stop: asked after every dispatch; a run that is stopped saves a checkpoint.
        stop_at_nan: whether a loss that is not finite ends the run; else it is a warning.
        saving: after which dispatches to save a checkpoint; one is saved after the last, too. None:
            at the end of every epoch alone.
        keep_best: whether to save one of the lowest validation loss as well.
        decided: from whether a checkpoint is due, and whether it is the best, to what the chief
            says of both. All workers look then whether every weight is finite.
        before: the counters of the checkpoint that the run goes on from.
        clock: seconds; handed in so that tests need no sleep.
    """
    history = History(
        observers,
        telemetry,
        running,
        start_step=start_step,
        stop_at_nan=stop_at_nan,
        before=before,
    )
    progress = history.progress
    history.compiled(compiled)
    steps_done = 0
    # A window lasts from the sync before it to its own. It includes the time of observers, but no
    # compilation, no evaluation, and no time for which a checkpoint holds up the loop. The rest of
    # a checkpoint is written while training goes on, and takes its share of the processor.
    remaining = iter(dispatches)
    window_start = clock()
    when = saving or Saving(Every(), start_step=start_step)
    when.begin(window_start)

    def save(*, regular: bool = True, best: bool = False) -> None:
        counters = history.saving()
        history.saved(
            run.save(progress.step, counters, regular=regular, best=best), regular=regular
        )
        if regular:
            when.saved(progress.step, now=clock())

    while not progress.interrupted and not history.must_stop:
        history.waiting()
        wait_start = clock()
        ready = next(remaining, None)
        data_wait = clock() - wait_start
        if ready is None:
            break
        history.ready()
        dispatch, batches = ready
        window_start += history.compiled(run.prepare(dispatch, batches))
        history.warn(run.warnings())

        sums = run.train(dispatch, batches)  # the window's one host sync
        window_end = clock()
        step = dispatch.step + dispatch.num_steps
        window = Window(
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
            telemetry=telemetry.window(window_start, window_end),
        )
        history.window(window)
        run.ended(window)
        window_start = window_end
        steps_done += dispatch.num_steps
        if history.must_stop:
            break

        progress.interrupted = should_stop()
        pause_start = clock()
        ends_early = steps_per_epoch < _ENDLESS and is_done()
        at_epoch_end, best = ends_early or step % steps_per_epoch == 0, False
        if at_epoch_end:
            found = run.evaluate(step=step, epoch=dispatch.epoch)
            best = history.epoch(dispatch.epoch, *found) and keep_best
            history.inspection(*run.inspect(dispatch, batches))
        due = progress.interrupted or when.is_due(step, at_epoch_end=at_epoch_end, now=pause_start)
        due, best = decided([due, best])
        if (due or best) and progress.divergence is None:
            save(regular=due, best=best)
        window_start += clock() - pause_start
        if ends_early or is_done() or (num_steps is not None and steps_done >= num_steps):
            break

    is_saved = progress.last_window is None or history.saved_step == progress.step
    if saving is not None and not is_saved and progress.divergence is None:
        save()
    if start_step > 0 and start_step % steps_per_epoch == 0 and progress.last_window is None:
        epoch = start_step // steps_per_epoch - 1
        history.epoch(epoch, *run.evaluate(step=start_step, epoch=epoch))
    return history.end()


class Steps:
    """Training by the step, as benchmarks and profiles want it."""

    def __init__(self, run: Run, start: RunStart) -> None:
        """Args:
        run: whose dispatches are of many epochs, without validation and checkpoints.
        start: what is trained.
        """
        self.start = start
        self._run = run
        self._dispatches = run.dispatches(epochs=_ENDLESS)

    def compile(self) -> Sequence[Compilation]:
        """Compiles every program of the training, if that was not yet done."""
        first = next(self._dispatches)
        self._dispatches = itertools.chain([first], self._dispatches)
        return self._run.prepare(*first)

    def run(
        self,
        *,
        num_steps: int | None = None,
        until: Callable[[], bool] = lambda: False,
        observers: Sequence[Observer] = (),
    ) -> Progress:
        """Trains on, in whole dispatches, and at least one.

        Args:
            num_steps: at least so many; None: until `until` says so.
            until: asked after every dispatch.
            observers: are told of the windows.
        """
        return train(
            self._dispatches,
            self._run,
            observers,
            steps_per_epoch=_ENDLESS,
            num_steps=num_steps,
            is_done=until,
        )
