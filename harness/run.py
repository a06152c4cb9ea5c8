"""What the loop drives: an engine with the rows of one training."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.data.examples import Examples
from harness.engine.checkpoints import Checkpoints
from harness.engine.engine import Engine, Started
from harness.engine.inspection import Looks
from harness.history import Progress
from harness.loop import train as train_loop
from harness.pipeline.batch import AnyBatches
from harness.pipeline.cadence import Cadence
from harness.pipeline.feed import Dispatches, Feed
from harness.pipeline.plan import Dispatch, Plan
from harness.records import (
    Compilation,
    Evaluation,
    Inspection,
    Observer,
    RunStart,
    StepSums,
    Window,
)

_ENDLESS = 2**40
"""Epochs, and steps of one that never ends."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows that lie ready, and how they are divided."""

    examples: Examples
    feed: Feed
    plan: Plan


class Run:
    """What the loop drives: an engine with the rows of one fit, and its checkpoints."""

    def __init__(
        self,
        engine: Engine,
        train: Rows,
        validation: Rows | None,
        *,
        cadence: Cadence,
        looks: Looks,
        checkpoints: Checkpoints | None,
        start_step: int,
    ) -> None:
        """Args:
        engine: trains.
        train: what on.
        validation: what to evaluate on at the end of every epoch; None: nothing.
        cadence: of the dispatches.
        looks: when gradients are looked at.
        checkpoints: saved at the end of every epoch; None: none are.
        start_step: steps that were done before.
        """
        self._engine = engine
        self._train = train
        self._validation = validation
        self._cadence = cadence
        self._looks = looks
        self._checkpoints = checkpoints
        self._start_step = start_step

    def dispatches(self, *, epochs: int) -> Dispatches:
        """Those up to the end of an epoch, counted from the first of all."""
        return self._train.feed.dispatches(
            self._train.plan,
            epochs=epochs,
            start_step=self._start_step,
            calls=lambda: self._cadence.num_calls,
        )

    def compile(self, *, epochs: int) -> Sequence[Compilation]:
        """Compiles before the run begins."""
        return self.prepare(*next(self.dispatches(epochs=epochs)))

    def prepare(self, dispatch: Dispatch, batches: Sequence[AnyBatches]) -> Sequence[Compilation]:
        """Compiles what is not compiled yet."""
        if dispatch.step % self._train.plan.steps_per_epoch == 0:
            self._engine.begin_epoch()
        return self._engine.prepare(
            self._train.plan, dispatch, batches, start_step=self._start_step
        )

    def warnings(self) -> Sequence[str]:
        """Weights that the loss does not depend on, once."""
        unused = self._engine.take_unused()
        if not unused:
            return ()
        names = ", ".join(unused)
        return (f"the loss does not depend on {names}: training leaves them as they are",)

    def train(self, dispatch: Dispatch, batches: Sequence[AnyBatches]) -> Started:
        """Starts a dispatch."""
        return self._engine.train(dispatch, batches)

    def fetch(self, started: Started) -> StepSums:
        """Waits for it."""
        return self._engine.fetch(started)

    def ended(self, window: Window) -> None:
        """Adapts the length of the next dispatch."""
        self._cadence.after(window)

    def evaluate(self, *, step: int, epoch: int) -> tuple[Evaluation | None, Sequence[Compilation]]:
        """Evaluates on the validation rows, if there are any."""
        if self._validation is None:
            return None, ()
        rows = self._validation
        return self._engine.evaluator.run(rows.feed, rows.plan, step=step, epoch=epoch)

    def inspect(
        self, dispatch: Dispatch, batches: Sequence[AnyBatches]
    ) -> tuple[Inspection | None, Sequence[Compilation]]:
        """Looks at the gradients of a batch, if it is time to."""
        return self._engine.inspector.run(dispatch, batches, self._looks)

    def save(self, step: int) -> bool:
        """Begins to save a checkpoint, unless a number is not finite; returns whether all are."""
        if not self._engine.states[0].is_finite():
            return False
        if self._checkpoints is not None:
            self._checkpoints.save(step)
        return True


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
        self._first: Any = None

    def compile(self) -> Sequence[Compilation]:
        """Compiles every program of the training, if that was not yet done."""
        if self._first is None:
            self._first = next(self._dispatches)
            self._dispatches = itertools.chain([self._first], self._dispatches)
        return self._run.prepare(*self._first)

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
        return train_loop(
            self._dispatches,
            self._run,
            observers,
            steps_per_epoch=_ENDLESS,
            num_steps=num_steps,
            is_done=until,
        )
