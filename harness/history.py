"""What happened in a run so far, told to observers as it comes in, and whether all is finite."""

import math
from collections.abc import Sequence

from harness.records import (
    Compilation,
    Divergence,
    Evaluation,
    Inspection,
    Observer,
    Progress,
    Window,
)


class History:
    """Keeps a run's records and passes each on, in order."""

    def __init__(
        self, observers: Sequence[Observer], *, start_step: int, stop_at_nan: bool
    ) -> None:
        """Args:
        observers: who is told.
        start_step: steps that were done before; above 0, a checkpoint holds them.
        stop_at_nan: whether a divergence ends the run; else observers are warned of it.
        """
        self._observers = observers
        self._stop_at_nan = stop_at_nan
        self._windows: list[Window] = []
        self._evaluations: list[Evaluation] = []
        self._inspections: list[Inspection] = []
        self._compilations: list[Compilation] = []
        self._step = start_step
        self._saved_step: int | None = start_step or None
        self.divergence: Divergence | None = None
        """Of the state at hand, since it began; None where all is finite."""

    @property
    def must_stop(self) -> bool:
        """Whether the run has diverged and shall not go on."""
        return self._stop_at_nan and self.divergence is not None

    def compilation(self, compilation: Compilation | None) -> float:
        """Adds it; returns the time to leave out of the window."""
        if compilation is None:
            return 0.0
        self._compilations.append(compilation)
        for observer in self._observers:
            observer.on_compilation(compilation)
        return compilation.seconds

    def window(self, window: Window) -> None:
        """Adds it, and judges by its loss."""
        self._windows.append(window)
        self._step = window.step
        for observer in self._observers:
            observer.on_window(window)
        self._judge("loss", window.loss)

    def evaluation(self, evaluation: Evaluation, compilation: Compilation | None) -> None:
        """Adds it, and judges by its loss: that of the weights at hand, on all held-out rows."""
        self.compilation(compilation)
        self._evaluations.append(evaluation)
        for observer in self._observers:
            observer.on_evaluation(evaluation)
        self._judge("validation loss", evaluation.loss)

    def inspection(self, inspection: Inspection | None, compilation: Compilation | None) -> None:
        """Adds it, if there was one."""
        self.compilation(compilation)
        if inspection is None:
            return
        self._inspections.append(inspection)
        for observer in self._observers:
            observer.on_inspection(inspection)

    def saved(self, done: bool) -> None:
        """A checkpoint of the state at hand is being saved; or not, as a weight is not finite."""
        if done:
            self._saved_step = self._step
        else:
            self._judge("weights", math.nan)

    def progress(self, *, interrupted: bool) -> Progress:
        """All of it."""
        return Progress(
            windows=tuple(self._windows),
            evaluations=tuple(self._evaluations),
            inspections=tuple(self._inspections),
            compilations=tuple(self._compilations),
            step=self._step,
            interrupted=interrupted,
            divergence=self.divergence,
        )

    def _judge(self, what: str, value: float) -> None:
        if math.isfinite(value):
            self.divergence = None
        elif self.divergence is None:
            finite = [window.loss for window in self._windows if math.isfinite(window.loss)]
            self.divergence = Divergence(
                what=what,
                value=value,
                first_step=self._step - self._windows[-1].num_steps + 1,
                last_step=self._step,
                loss_before=finite[-1] if finite else None,
                saved_step=self._saved_step,
            )
            if not self._stop_at_nan:
                for observer in self._observers:
                    first = self.divergence.first_step
                    observer.on_warning(f"the {what} is {value} from step {first} on")
