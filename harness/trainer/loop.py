"""The training loop: windows, their one host sync, and what happens at the end of an epoch."""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from harness.feed.batch import BatchesByRows
from harness.feed.feed import Dispatches, Feed
from harness.feed.plan import Dispatch, Plan
from harness.program.model_programs import InspectionSchedule, ModelPrograms
from harness.run import records
from harness.run.checkpoint_schedule import CheckpointSchedule
from harness.run.checkpoints import Checkpoints
from harness.run.history import History, Progress
from harness.run.telemetry.recorder import TelemetryRecorder
from harness.task.measures import Quality
from harness.trainer.cadence import Cadence
from harness.workers.cluster import Cluster

# Short epochs are prepared together, since each preparation costs the host a millisecond.
_ROWS_AHEAD, _MAX_EPOCHS_AHEAD = 2**18, 16
Evaluated = tuple[records.Evaluation | None, Sequence[records.Compilation]]
_ENDLESS = 2**40  # The number of epochs, or of steps in an epoch, of a training without end


@dataclass(frozen=True, kw_only=True)
class Rows:
    feed: Feed
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Training:
    """The programs that the loop drives, with the rows of one training and its checkpoints."""

    programs: ModelPrograms
    rows: Rows  # The rows to train on
    validation: Rows | None = None  # The rows to evaluate on at the end of every epoch
    evaluation: Callable[..., Evaluated] | None = None  # for callbacks; may skip the evaluation
    measures: Quality | None = None  # of the validation rows, as of the last evaluation
    cadence: Cadence
    inspections: InspectionSchedule = field(default_factory=InspectionSchedule)
    checkpoints: Checkpoints | None = None  # The checkpoints to save the state in; None saves none
    about: Mapping[str, Any] = field(default_factory=dict)  # which each checkpoint holds
    start_step: int = 0  # Optimizer steps done before
    may_change: bool = False  # Whether anything but training may change the weights

    def dispatches(self, *, epochs: int) -> Dispatches:
        ahead = min(_MAX_EPOCHS_AHEAD, _ROWS_AHEAD // self.rows.plan.num_rows)
        return self.rows.feed.dispatches(
            self.rows.plan,
            epochs=epochs,
            start_step=self.start_step,
            calls=lambda: self.cadence.num_calls,
            at_once=lambda: max(self.cadence.num_epochs, ahead),
        )

    def by_step(self, start_step: int) -> "Training":
        """Returns the training from a step on, by dispatches of one step."""
        return replace(
            self,
            rows=replace(self.rows, plan=replace(self.rows.plan, steps_per_call=1)),
            cadence=Cadence(steps_per_call=1, fixed=True),
            start_step=start_step,
        )

    def prepare(self, dispatch: Dispatch, batches: BatchesByRows) -> Sequence[records.Compilation]:
        held_out = self.validation if dispatch.step == self.start_step else None
        return self.programs.prepare(
            self.rows.plan,
            dispatch,
            batches,
            start_step=self.start_step,
            evaluation=None if held_out is None else (held_out.feed, held_out.plan),
        )

    def agree(self, cluster: Cluster, *, wish: int) -> int:
        """Returns a signal told to any worker, or 0, and takes the chief's number of calls."""
        if cluster.is_alone:
            return wish
        told, num_calls = cluster.most([wish, self.cadence.num_calls if cluster.is_chief else 0])
        self.cadence.num_calls = num_calls
        return told

    def evaluate(self, *, step: int, epoch: int) -> Evaluated:
        if self.validation is None:
            return None, ()
        rows = self.validation
        evaluate = self.evaluation or self.programs.evaluate
        return evaluate(
            rows.feed,
            rows.plan,
            step=step,
            epoch=epoch,
            measures=self.measures,
            with_checksum=self.may_change,
        )

    def is_current(self, evaluation: records.Evaluation | None, *, step: int) -> bool:
        if evaluation is None or evaluation.step != step:
            return False
        return evaluation.checksum is None or evaluation.checksum == self.programs.checksum()

    def save(self, history: History) -> None:
        """Begins to save a checkpoint, if all weights are finite."""
        history.tell(records.CheckpointDue(step=history.progress.step))
        is_finite = bool(self.programs.state.is_finite())
        if is_finite and self.checkpoints is not None:
            about = {**self.about, "counters": asdict(history.progress.counters)}
            self.checkpoints.save(history.progress.step, about)
        history.saved(is_finite)


def train(
    dispatches: Iterable[tuple[Dispatch, BatchesByRows]],
    training: Training,
    history: History,
    *,
    steps_per_epoch: int,
    num_steps: int | None = None,
    is_done: Callable[[], bool] = lambda: False,
    should_stop: Callable[[], bool] = lambda: False,
    saving: CheckpointSchedule | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Progress:
    """Runs all dispatches, or those of `num_steps` steps, rounded up; evaluates after every epoch,
    and saves checkpoints.

    A window lasts from the previous host sync to its own, without compilation, evaluation, and the
    time for which a checkpoint holds up the loop. After every dispatch, `should_stop` may stop the
    run, which saves a checkpoint, and `is_done` may end the epoch and the run. Without `saving`,
    only ends of epochs save.
    """
    progress, start_step, steps_done = history.progress, history.progress.step, 0
    # What the loop stops for (compilation, evaluation, saving) moves `window_start` by as much.
    when = saving or CheckpointSchedule()
    remaining = iter(dispatches)
    window_start = clock()
    when.saved(start_step, now=window_start)
    while not progress.interrupted and not history.must_stop:
        history.tell(records.BatchesAwaited(step=progress.step))
        wait_start = clock()
        parts = list(itertools.islice(remaining, training.cadence.num_epochs))
        data_wait = clock() - wait_start
        if not parts:
            break
        history.tell(records.BatchesReady(step=progress.step))
        first = parts[0][0]
        if steps_per_epoch < _ENDLESS and first.step % steps_per_epoch == 0 and is_done():
            # A callback has stopped the run before this epoch: like Keras, train one batch of it.
            training = training.by_step(first.step)
            parts = [next(training.dispatches(epochs=first.epoch + 1))]
        window_start += sum(history.compiled(training.prepare(*part)) for part in parts)
        if names := ", ".join(training.programs.take_unused()):
            history.warn(f"the loss does not depend on {names}: training leaves them as they are")
        sums = training.programs.train(parts)  # the one host sync
        window_end = clock()
        times = window_start, window_end, data_wait
        window = _tell(history, parts, sums, steps_per_epoch, times)
        num_steps_trained = sum(part.num_steps for part, _ in parts)
        training.cadence.after(num_steps_trained, window_end - window_start)
        window_start = window_end
        if history.must_stop:
            break
        dispatch, batches = parts[-1]

        progress.interrupted = should_stop()
        pause_start = clock()
        ends_early = steps_per_epoch < _ENDLESS and is_done()
        at_epoch_end = ends_early or window.step % steps_per_epoch == 0
        if at_epoch_end:
            found = training.evaluate(step=window.step, epoch=dispatch.epoch)
            history.epoch(dispatch.epoch, *found)
            history.inspection(*training.programs.inspect(dispatch, batches, training.inspections))
        how = {"at_epoch_end": at_epoch_end, "force": progress.interrupted}
        due = when.decide(window.step, now=pause_start, **how)
        # The last checkpoint stays a good one: a state whose loss is not finite is not saved.
        if due and progress.divergence is None:
            training.save(history)
            when.saved(window.step, now=clock())
        window_start += clock() - pause_start
        steps_done += num_steps_trained
        if ends_early or is_done() or (num_steps is not None and steps_done >= num_steps):
            break

    is_saved = progress.last_window is None or history.saved_step == progress.step
    if saving is not None and not is_saved and progress.divergence is None:
        training.save(history)
    if start_step > 0 and start_step % steps_per_epoch == 0 and progress.last_window is None:
        # A run that is resumed after its last step has no dispatch; it only evaluates.
        epoch = start_step // steps_per_epoch - 1
        history.epoch(epoch, *training.evaluate(step=start_step, epoch=epoch))
    return history.end()


def _tell(
    history: History,
    parts: Sequence[tuple[Dispatch, BatchesByRows]],
    sums: Sequence[records.StepSums],
    steps_per_epoch: int,
    times: tuple[float, float, float],
) -> records.Window:
    """Tells of the windows of a dispatch and of the ends of epochs between them, as if each had a
    host sync; returns the last window. `times` are start, end, and wait for data."""
    num_steps = sum(dispatch.num_steps for dispatch, _ in parts)
    start, end, data_wait = times
    seconds = end - start
    for number, ((dispatch, _), own) in enumerate(zip(parts, sums, strict=True)):
        if number > 0:
            if dispatch.step % steps_per_epoch == 0:
                history.epoch(dispatch.epoch - 1, None, ())
            at = {"step": dispatch.step}
            history.tell(records.BatchesAwaited(**at), records.BatchesReady(**at))
        share = dispatch.num_steps / num_steps
        start += share * seconds
        window = records.Window(
            step=dispatch.step + dispatch.num_steps,
            epoch=dispatch.epoch,
            batch_size=dispatch.batch_size,
            num_steps=dispatch.num_steps,
            examples=dispatch.examples,
            tokens=dispatch.tokens,
            seconds=share * seconds,
            data_wait_seconds=share * data_wait,
            loss=own.loss / dispatch.examples,
            metrics=own.metrics,
            loss_scale=own.loss_scale,
            skipped_steps=own.skipped_steps,
            ended_at_seconds=start,
        )
        history.window(window)
        if history.must_stop:
            break
    return window


class Steps:
    """Trains by the step, for benchmarks and profiles."""

    def __init__(self, training: Training, start: records.RunStart) -> None:
        self.start = start
        self._training = training
        self._step = training.start_step
        self._dispatches = training.dispatches(epochs=_ENDLESS)

    def compile(self) -> Sequence[records.Compilation]:
        first = next(self._dispatches)
        self._dispatches = itertools.chain([first], self._dispatches)
        return self._training.prepare(*first)

    def run(
        self,
        *,
        num_steps: int | None = None,
        until: Callable[[], bool] = lambda: False,
        observers: Sequence[records.Observer] = (),
        telemetry: TelemetryRecorder | None = None,
    ) -> Progress:
        """Trains whole dispatches, at least one, for `num_steps` or until `until` returns True."""
        progress = train(
            self._dispatches,
            self._training,
            History(observers, start_step=self._step, telemetry=telemetry),
            steps_per_epoch=_ENDLESS,
            num_steps=num_steps,
            is_done=until,
        )
        self._step = progress.step
        return progress
