"""Observers that are told in the background, so that the device gets its next work meanwhile."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from harness.background import Background
from harness.records import (
    Compilation,
    Evaluation,
    Inspection,
    Observer,
    RunStart,
    Summary,
    Window,
    WindowTelemetry,
)


class BackgroundObserver(Observer):
    """Passes what happens while a run trains on to others, in order, on the thread of `background`.

    What one of them raises ends the run with the next record. Of the run's start and end they are
    told by the thread that tells this one.
    """

    def __init__(self, observers: Sequence[Observer], background: Background) -> None:
        """Args:
        observers: who is told.
        background: ends before this is closed.
        """
        self._observers = observers
        self._background = background

    def on_start(self, run: RunStart) -> None:
        """At once: what does not work at all is known before anything is trained."""
        for observer in self._observers:
            observer.on_start(run)

    def on_compilation(self, compilation: Compilation) -> None:
        """In the background."""
        self._tell(lambda observer: observer.on_compilation(compilation))

    def on_telemetry(self, telemetry: WindowTelemetry) -> None:
        """In the background."""
        self._tell(lambda observer: observer.on_telemetry(telemetry))

    def on_window(self, window: Window) -> None:
        """In the background."""
        self._tell(lambda observer: observer.on_window(window))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """In the background."""
        self._tell(lambda observer: observer.on_evaluation(evaluation))

    def on_inspection(self, inspection: Inspection) -> None:
        """In the background."""
        self._tell(lambda observer: observer.on_inspection(inspection))

    def on_warning(self, message: str) -> None:
        """In the background."""
        self._tell(lambda observer: observer.on_warning(message))

    def on_note(self, message: str) -> None:
        """In the background."""
        self._tell(lambda observer: observer.on_note(message))

    def on_end(self, summary: Summary) -> None:
        """When all else has been told."""
        self._background.wait()
        for observer in self._observers:
            observer.on_end(summary)

    def close(self) -> None:
        """Closes the others, also after a failure."""
        with ExitStack() as closing:
            for observer in self._observers:
                closing.callback(observer.close)

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        def tell_all() -> None:
            for observer in self._observers:
                tell(observer)

        self._background.do(tell_all)
