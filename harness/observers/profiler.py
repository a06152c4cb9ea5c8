"""A profile of a stretch of a run's steps, captured by TensorFlow's profiler."""

import errno
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.files import os_error
from harness.records import Compilation, Observer, RunStart, Summary, Window

STEP_MARKER = "train"
"""What a dispatch is called in the trace."""
INPUT_MARKER = "waiting for batches"


@dataclass(frozen=True, kw_only=True)
class MarkedWindow:
    """A dispatch between step markers."""

    first_step: int
    num_steps: int
    seconds: float
    """By the host's clock, from asking for the batches to the end of the dispatch."""


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A profile that was written."""

    path: Path
    """`<folder>/plugins/profile/<time>/<host>.xplane.pb`, where TensorBoard's plugin looks."""
    windows: tuple[MarkedWindow, ...]

    @property
    def first_step(self) -> int:
        """Optimizer steps done before its first."""
        return self.windows[0].first_step

    @property
    def last_step(self) -> int:
        """Optimizer steps done at its end."""
        return self.windows[-1].first_step + self.windows[-1].num_steps

    @property
    def num_steps(self) -> int:
        """Steps in it."""
        return sum(window.num_steps for window in self.windows)


class ProfilerObserver(Observer):
    """Profiles the dispatches that hold the steps after `first` up to `last`.

    A dispatch is one call of the compiled program, so it is in the profile whole or not at all, and
    has one step marker. The training takes its batches through `marked`, so that the marker can
    begin where the loop asks for them. When a dispatch is compiled before anything was captured,
    the capture begins again: compilation stays outside. The profiler starts and ends in time that
    counts for the window after. It has to be told on the thread that trains, whose trace it marks.

    Raises:
        OSError: naming the folder, when the profile cannot be written there.
    """

    def __init__(self, folder: Path, *, first: int, last: int) -> None:
        """Args:
        folder: TensorBoard's; made where it is missing.
        first, last: optimizer steps done before the first step of interest, and after the last.
        """
        assert 0 <= first < last, (first, last)
        self.capture: Capture | None = None
        """Set when the profile was written."""
        self.asked_for = (first, last)
        self._folder = folder
        self._first = first
        self._last = last
        self._step = 0
        self._steps_per_dispatch = 0
        self._running = False
        self._windows: list[MarkedWindow] = []
        self._marker: AbstractContextManager[Any] | None = None
        self._began = 0.0

    def on_start(self, run: RunStart) -> None:
        """Starts the profiler where the first dispatch may be of interest."""
        self._step = run.start_step
        self._steps_per_dispatch = int(run.steps_per_dispatch.name)
        self._start_if_due()

    def marked(self, dispatches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """The dispatches, each between step markers while the profiler runs."""
        remaining = iter(dispatches)
        while True:
            self._open_marker()
            if self._running:
                with _trace(INPUT_MARKER):
                    ready = next(remaining, None)
            else:
                ready = next(remaining, None)
            if ready is None:
                self._close_marker()
                return
            yield ready

    def on_compilation(self, compilation: Compilation) -> None:
        """Begins again, unless a dispatch was captured already."""
        if self._marker is not None and not self._windows:
            self._close_marker()
            self._discard()
            self._start_if_due()
            self._open_marker()

    def on_window(self, window: Window) -> None:
        """Ends the dispatch's marker; writes the profile after the last."""
        if self._running:
            seconds = time.perf_counter() - self._began
            self._close_marker()
            if window.step <= self._first:
                self._discard()
            else:
                self._windows.append(
                    MarkedWindow(
                        first_step=window.step - window.num_steps,
                        num_steps=window.num_steps,
                        seconds=seconds,
                    )
                )
        self._step = window.step
        if self._running and window.step >= self._last:
            self._write()
        self._start_if_due()

    def on_end(self, summary: Summary) -> None:
        """As `finish`."""
        self.finish()

    def finish(self) -> None:
        """Writes what an interrupted run has captured."""
        if self._windows and self._running:
            self._write()

    def close(self) -> None:
        """Stops the profiler, also after a failure."""
        self._close_marker()
        self._discard()

    def _start_if_due(self) -> None:
        # A dispatch never holds more steps than those, but may hold fewer: see `on_window`.
        due = self._step + self._steps_per_dispatch > self._first
        if not due or self._running or self.capture is not None:
            return
        import tensorflow as tf

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            tf.profiler.experimental.start(str(self._folder))
        except tf.errors.OpError as error:
            raise os_error(error.message, self._folder) from error
        self._running = True

    def _open_marker(self) -> None:
        if self._running:
            self._marker = _trace(STEP_MARKER, step_num=self._step, _r=1)
            self._marker.__enter__()
            self._began = time.perf_counter()

    def _close_marker(self) -> None:
        if self._marker is not None:
            self._marker.__exit__(None, None, None)
            self._marker = None

    def _discard(self) -> None:
        if self._running:
            import tensorflow as tf

            tf.profiler.experimental.stop(save=False)
            self._running = False

    def _write(self) -> None:
        import tensorflow as tf

        self._running = False
        before = _written(self._folder)
        try:
            tf.profiler.experimental.stop()
        except tf.errors.OpError as error:
            for path, _ in _written(self._folder) - before:
                shutil.rmtree(path.parent)  # a torn file
            raise os_error(error.message, self._folder) from error
        new = {path for path, _ in _written(self._folder) - before}
        if len(new) != 1:
            raise OSError(errno.EIO, "TensorFlow's profiler wrote no profile", str(self._folder))
        self.capture = Capture(path=new.pop(), windows=tuple(self._windows))


def _trace(name: str, **stats: int) -> AbstractContextManager[Any]:
    import tensorflow as tf

    trace: AbstractContextManager[Any] = tf.profiler.experimental.Trace(name, **stats)
    return trace


def _written(folder: Path) -> set[tuple[Path, int]]:
    """The profiles in a folder, each with the time of its last change."""
    found = folder.glob("plugins/profile/*/*.xplane.pb")
    return {(path, path.stat().st_mtime_ns) for path in found}
