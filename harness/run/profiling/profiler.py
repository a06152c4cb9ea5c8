"""A profile of some of a run's steps, captured by TensorFlow's profiler."""

import errno
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

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
from harness.run.tf_errors import os_errors

STEP_MARKER = "train"
"""The name of a dispatch in the trace."""
INPUT_MARKER = "waiting for batches"


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A profile that was written."""

    path: Path
    """`<folder>/plugins/profile/<time>/<host>.xplane.pb`, where TensorBoard's plugin looks."""
    first_step: int
    """Optimizer steps done before the profile."""
    last_step: int
    """Optimizer steps done at its end."""
    num_dispatches: int


class ProfilerObserver(Observer):
    """Profiles the dispatches that hold the steps after `first` up to `last`.

    A dispatch is in the profile whole or not at all, with one step marker that begins where the
    loop asks for its batches. The observer must be called on the thread that trains, whose trace it
    marks. Starting and stopping the profiler takes time of the next window.

    Raises:
        OSError: naming the folder, when the profile cannot be written there.
    """

    def __init__(self, folder: Path, *, first: int, last: int) -> None:
        """Args:
        folder: TensorBoard's folder; created if it is missing.
        first, last: optimizer steps done before the first step of interest, and after the last.
        """
        self.capture: Capture | None = None
        """The profile, once it is written."""
        self.asked_for = (first, last)
        self._folder = folder
        self._running = False
        self._first_step = self._step = self._num_dispatches = self._steps_per_dispatch = 0
        self._step_marker, self._input_marker = ExitStack(), ExitStack()

    def tell(self, record: Record) -> None:
        match record:
            case RunStart():
                self._steps_per_dispatch = int(record.choices["steps_per_dispatch"].value)
            case BatchesAwaited():
                self._step = record.step
                if not self._running and self.capture is None:
                    self._start_if_due()
                elif self._running:
                    self._mark_step()
            case BatchesReady():
                self._input_marker.close()
            case Compilation() if self._running and not self._num_dispatches:
                # Begin again behind the compilation, which would fill the profile.
                self.close()
                self._start_if_due()
            case Window() if self._running:
                self._close_markers()
                self._num_dispatches += 1
                self._step = record.step
                if record.step >= self.asked_for[1]:
                    self.finish()
            case Summary():
                self.finish()

    def _start_if_due(self) -> None:
        """Starts the profiler if the next dispatch may hold a step of interest."""
        if self._step + self._steps_per_dispatch > self.asked_for[0]:
            with os_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                tf.profiler.experimental.start(str(self._folder))
            self._running, self._first_step = True, self._step
            self._mark_step()

    def _mark_step(self) -> None:
        step = tf.profiler.experimental.Trace(STEP_MARKER, step_num=self._step, _r=1)
        self._step_marker.enter_context(step)
        self._input_marker.enter_context(tf.profiler.experimental.Trace(INPUT_MARKER))

    def _close_markers(self) -> None:
        self._input_marker.close()
        self._step_marker.close()

    def finish(self) -> None:
        """Writes what is captured, also of a run that was interrupted."""
        self._close_markers()
        if not self._running or not self._num_dispatches:
            return
        self._running = False
        before = self._profiles()
        with os_errors(self._folder):
            try:
                tf.profiler.experimental.stop()
            except tf.errors.OpError:
                for path in self._profiles() - before:
                    shutil.rmtree(path.parent)  # the file is incomplete
                raise
        new = self._profiles() - before
        if len(new) != 1:
            raise OSError(errno.EIO, "TensorFlow's profiler wrote no profile", str(self._folder))
        self.capture = Capture(
            path=new.pop(),
            first_step=self._first_step,
            last_step=self._step,
            num_dispatches=self._num_dispatches,
        )

    def _profiles(self) -> set[Path]:
        return set(self._folder.glob("plugins/profile/*/*.xplane.pb"))

    def close(self) -> None:
        """Stops the profiler, and drops what it holds."""
        self._close_markers()
        if self._running:
            tf.profiler.experimental.stop(save=False)
            self._running = False
