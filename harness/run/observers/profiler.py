"""A profile of some of a run's steps, captured by TensorFlow's profiler."""

import errno
import shutil
import statistics
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from harness.run.observers.event_file import os_errors
from harness.run.records import (
    BatchesAwaited,
    BatchesReady,
    Compilation,
    Observer,
    Record,
    RunStart,
    Summary,
    Window,
)

STEP_MARKER = "train"
"""The name of a dispatch in the trace."""
INPUT_MARKER = "waiting for batches"
_MAX_STEP_TIMES = 1000


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A profile that was written."""

    path: Path
    """`<folder>/plugins/profile/<time>/<host>.xplane.pb`, where TensorBoard's plugin looks."""
    first_step: int
    """Optimizer steps done before the profile."""
    dispatches: tuple[int, ...]
    """The number of steps of each dispatch, in order."""

    @property
    def num_steps(self) -> int:
        """Steps in the profile."""
        return sum(self.dispatches)

    @property
    def last_step(self) -> int:
        """Optimizer steps done at the end of the profile."""
        return self.first_step + self.num_steps


class ProfilerObserver(Observer):
    """Profiles the dispatches that hold the steps after `first` up to `last`.

    A dispatch is in the profile whole or not at all, with one step marker that begins where the
    loop asks for its batches. If a dispatch is compiled before anything was captured, the capture
    starts again, so that it leaves out compilation. Starting and stopping the profiler takes time
    of the next window. The observer must be called on the thread that trains, whose trace it marks.

    Raises:
        OSError: naming the folder, when the profile cannot be written there.
    """

    def __init__(self, folder: Path, *, first: int, last: int) -> None:
        """Args:
        folder: TensorBoard's folder; created if it is missing.
        first, last: optimizer steps done before the first step of interest, and after the last.
        """
        assert 0 <= first < last, (first, last)
        self.capture: Capture | None = None
        """The profile, once it is written."""
        self.asked_for = (first, last)
        self._folder = folder
        self._steps_per_dispatch = 0
        self._running = False
        self._step = 0  # before the present dispatch
        self._first_step = 0
        self._dispatches: list[int] = []
        self._step_marker: ExitStack | None = None
        self._input_marker = ExitStack()
        self._step_times_ms: deque[float] = deque(maxlen=_MAX_STEP_TIMES)

    @property
    def ms_without(self) -> float | None:
        """The median step time of the dispatches outside the profile, in milliseconds; None without
        any. The first of them does not count, as it starts cold."""
        warm = list(self._step_times_ms)[1:]
        return statistics.median(warm) if warm else None

    def tell(self, record: Record) -> None:
        match record:
            case RunStart():
                self._steps_per_dispatch = int(record.choices["steps_per_dispatch"].value)
            case BatchesAwaited():
                self._dispatch(record.step)
            case BatchesReady():
                self._input_marker.close()
            case Compilation():
                self._compilation()
            case Window():
                self._window(record)
            case Summary():
                self.finish()

    def _dispatch(self, step: int) -> None:
        """Starts the profiler if the dispatch may be of interest; opens the markers."""
        self._step = step
        # A dispatch may hold fewer steps than these: see `_window`.
        due = self.capture is None and step + self._steps_per_dispatch > self.asked_for[0]
        if due and not self._running:
            self._start()
        if self._running:
            self._open_step_marker()
            self._input_marker.enter_context(tf.profiler.experimental.Trace(INPUT_MARKER))

    def _compilation(self) -> None:
        """Starts the capture again, unless it already holds a dispatch."""
        if self._step_marker is not None and not self._dispatches:
            self.close()
            self._start()
            self._open_step_marker()

    def _window(self, window: Window) -> None:
        """Closes the dispatch's marker; writes the profile after the last dispatch."""
        if not self._running:
            self._step_times_ms.append(window.step_time_ms)
            return
        self._close_markers()
        if window.step <= self.asked_for[0]:
            self.close()
            return
        if not self._dispatches:
            self._first_step = self._step
        self._dispatches.append(window.num_steps)
        if window.step >= self.asked_for[1]:
            self._write()

    def finish(self) -> None:
        """Writes what an interrupted run has captured."""
        self._close_markers()
        if self._dispatches and self._running:
            self._write()

    def close(self) -> None:
        """Stops the profiler, and drops what it holds."""
        self._close_markers()
        if self._running:
            tf.profiler.experimental.stop(save=False)
            self._running = False

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with os_errors(self._folder):
            tf.profiler.experimental.start(str(self._folder))
        self._running = True

    def _open_step_marker(self) -> None:
        self._step_marker = ExitStack()
        marker = tf.profiler.experimental.Trace(STEP_MARKER, step_num=self._step, _r=1)
        self._step_marker.enter_context(marker)

    def _close_markers(self) -> None:
        self._input_marker.close()
        if self._step_marker is not None:
            self._step_marker.close()
            self._step_marker = None

    def _write(self) -> None:
        self._running = False
        before = _written(self._folder)
        with os_errors(self._folder):
            try:
                tf.profiler.experimental.stop()
            except tf.errors.OpError:
                for path, _ in _written(self._folder) - before:
                    shutil.rmtree(path.parent)  # a torn file
                raise
        new = {path for path, _ in _written(self._folder) - before}
        if len(new) != 1:
            raise OSError(errno.EIO, "TensorFlow's profiler wrote no profile", str(self._folder))
        self.capture = Capture(
            path=new.pop(), first_step=self._first_step, dispatches=tuple(self._dispatches)
        )


def _written(folder: Path) -> set[tuple[Path, int]]:
    """Returns the profiles in a folder, each with the time of its last change."""
    found = folder.glob("plugins/profile/*/*.xplane.pb")
    return {(path, path.stat().st_mtime_ns) for path in found}
