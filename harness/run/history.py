"""Passes a run's records on to its observers, sums them up, and detects divergence."""

import math
from array import array
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.run import records
from harness.run.stretches import Stretches, joined
from harness.run.telemetry.recorder import TelemetryRecorder, TelemetryTotals


@dataclass(frozen=True, kw_only=True)
class Counters:
    """The totals of a run, which a checkpoint holds so that a resumed run goes on counting."""

    examples: int = 0  # examples since the first step
    train_seconds: float = 0.0  # training time since the first step
    epoch_examples: int = 0  # examples of the epoch so far
    # Sums of the loss and each metric over the epoch's examples so far; text such as "NaN" for a
    # sum that is not finite.
    epoch_sums: Mapping[str, float | str] = field(default_factory=dict)

    def after(self, window: records.Window) -> "Counters":
        values = {"loss": window.loss, **window.metrics}
        return Counters(
            examples=self.examples + window.examples,
            train_seconds=self.train_seconds + window.seconds,
            epoch_examples=self.epoch_examples + window.examples,
            epoch_sums={
                name: float(self.epoch_sums.get(name, 0.0)) + window.examples * value
                for name, value in values.items()
            },
        )

    @property
    def means(self) -> dict[str, float]:
        """The means of the loss and each metric over the epoch's examples so far."""
        return {name: float(total) / self.epoch_examples for name, total in self.epoch_sums.items()}


@dataclass(kw_only=True)
class Progress:
    """Everything that happened from the first window to the last."""

    # Statistics of all windows, set at the end.
    windows: records.WindowStatistics = field(default_factory=records.WindowStatistics)
    last_window: records.Window | None = None  # None if no step was trained
    epochs: list[records.Epoch] = field(default_factory=list)
    inspections: list[records.Inspection] = field(default_factory=list)
    compilations: list[records.Compilation] = field(default_factory=list)
    step: int  # optimizer steps done, those before a resume included
    interrupted: bool = False
    divergence: records.Divergence | None = None  # the one that still lasts, as it was first seen
    # Of all windows, set at the end.
    telemetry: TelemetryTotals = field(default_factory=TelemetryTotals)
    counters: Counters = Counters()  # with those before a resume


class History:
    """Passes a run's records on to its observers, in order, and keeps their sums."""

    def __init__(
        self,
        observers: Sequence[records.Observer],
        *,
        telemetry: TelemetryRecorder | None = None,
        running: Container[str] = (),
        start_step: int = 0,
        stop_at_nan: bool = False,
        before: Counters | None = None,
        learning_rate: Callable[[], float] | None = None,
    ) -> None:
        """`running` names the metrics whose value is that of the epoch so far, not of the window.
        `start_step` steps were done before, with the counters `before`. `learning_rate` returns the
        optimizer's after the last step; it is asked at the end of each stretch."""
        self._observers = observers
        self._telemetry = telemetry or TelemetryRecorder(hz=0.0, bus_ids=())
        self._stop_at_nan = stop_at_nan
        self.progress = Progress(step=start_step, counters=before or Counters())
        self._learning_rate = learning_rate
        self._stretches = Stretches()
        self._last_stretch: records.Stretch | None = None
        self._total: records.Stretch | None = None  # of all windows
        self._rates = array("d")  # examples/s and tokens/s of each stretch
        self._skipped_steps = self._most_steps = 0
        self._finite_losses: tuple[float, float] | None = None  # the lowest and the last
        self._running = running
        self.saved_step: int | None = start_step or None  # at the last checkpoint

    @property
    def must_stop(self) -> bool:
        return self._stop_at_nan and self.progress.divergence is not None

    def compiled(self, compilations: Sequence[records.Compilation]) -> float:
        """Adds compilations; returns their seconds, which the window leaves out."""
        self.tell(*self._telemetry.messages())
        self.progress.compilations += compilations
        self.tell(*compilations)
        return sum(compilation.seconds for compilation in compilations)

    def note(self, *texts: str) -> None:
        self.tell(*(records.Message(kind="note", text=text) for text in texts))

    def warn(self, *texts: str) -> None:
        self.tell(*(records.Message(kind="warning", text=text) for text in texts))

    def window(self, window: records.Window) -> None:
        self.tell(*self._telemetry.messages())
        self._skipped_steps += window.skipped_steps
        self._most_steps = max(self._most_steps, window.num_steps)
        self._total = joined(self._total, window)
        self.progress.counters = self.progress.counters.after(window)
        ended_at = window.ended_at_seconds
        window = replace(
            window,
            so_far=self._so_far(window.metrics),
            telemetry=self._telemetry.window(ended_at - window.seconds, ended_at),
        )
        self.progress.last_window = window
        self.progress.step = window.step
        if stretch := self._stretches.add(window):
            self._add_stretch(stretch)
        # Told before it is judged: the window that shows a divergence is on record, too.
        self.tell(window)
        self._judge("loss", window.loss)
        if math.isfinite(window.loss):
            least = self._finite_losses[0] if self._finite_losses else window.loss
            self._finite_losses = min(least, window.loss), window.loss

    def epoch(
        self,
        number: int,
        evaluation: records.Evaluation | None,
        compilations: Sequence[records.Compilation],
    ) -> None:
        self.compiled(compilations)  # those of the evaluation
        last = self.progress.last_window
        means = self._so_far({} if last is None else last.metrics)
        self.progress.counters = replace(self.progress.counters, epoch_examples=0, epoch_sums={})
        loss = means.pop("loss", None)
        epoch = records.Epoch(
            epoch=number, step=self.progress.step, loss=loss, metrics=means, evaluation=evaluation
        )
        self.progress.epochs.append(epoch)
        self.tell(epoch)
        if evaluation is not None:
            self._judge("validation loss", evaluation.loss)

    def inspection(
        self, inspection: records.Inspection | None, compilations: Sequence[records.Compilation]
    ) -> None:
        self.compiled(compilations)
        if inspection is not None:
            self.progress.inspections.append(inspection)
            self.tell(inspection)

    def saved(self, done: bool) -> None:
        """Notes that a checkpoint is being saved, or is not: a weight is not finite."""
        if done:
            self.saved_step = self.progress.step
        else:
            self._judge("weights", math.nan)

    def _so_far(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns the means over the epoch so far; the last values of metrics that run over it."""
        running = {name: value for name, value in metrics.items() if name in self._running}
        return self.progress.counters.means | running

    def _add_stretch(self, stretch: records.Stretch) -> None:
        self._last_stretch = stretch
        self._rates.extend(_rates(stretch))
        rate = None if self._learning_rate is None else self._learning_rate()
        self.tell(replace(stretch, learning_rate=rate))

    def end(self) -> Progress:
        """Ends the telemetry, and returns the progress of the run."""
        if (rest := self._stretches.rest) is not None:
            if self._last_stretch is None:  # the whole training was short
                self._add_stretch(rest)
            else:
                self._rates[-2:] = array("d", _rates(joined(self._last_stretch, rest)))
        self.progress.telemetry = self._telemetry.finish()
        self.progress.windows = self._statistics()
        self.tell(*self._telemetry.messages())
        return self.progress

    def tell(self, *told: records.Record) -> None:
        for record in told:
            for observer in self._observers:
                observer.tell(record)

    def _judge(self, what: str, value: float) -> None:
        if math.isfinite(value):
            self.progress.divergence = None
        elif self.progress.divergence is None:
            least, last = self._finite_losses or (None, None)
            num_steps = self.progress.last_window.num_steps if self.progress.last_window else 1
            first_step = self.progress.step - num_steps + 1
            self.progress.divergence = records.Divergence(
                what=what,
                value=value,
                first_step=first_step,
                last_step=self.progress.step,
                loss_before=last,
                least_loss_before=least,
                saved_step=self.saved_step,
            )
            if not self._stop_at_nan:
                self.warn(f"the {what} is {value} from step {first_step} on")

    def _statistics(self) -> records.WindowStatistics:
        import numpy as np  # so that --help need not wait for it

        if (total := self._total) is None:
            return records.WindowStatistics()
        examples, tokens = np.median(np.reshape(self._rates, (-1, 2)), axis=0).tolist()
        return records.WindowStatistics(
            examples_per_second=examples,
            steps_per_second=examples / total.batch_size,
            tokens_per_second=tokens,
            mean_examples_per_second=total.examples_per_second,
            mean_steps_per_second=total.steps_per_second,
            mean_tokens_per_second=total.tokens_per_second,
            data_wait_fraction=total.data_wait_fraction,
            train_seconds=total.seconds,
            examples=total.examples,
            skipped_steps=self._skipped_steps,
            most_steps=self._most_steps,
        )


def _rates(stretch: records.Stretch) -> tuple[float, float]:
    return stretch.examples_per_second, stretch.tokens_per_second
