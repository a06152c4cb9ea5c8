"""A profile of some of a run's steps, captured by TensorFlow's profiler."""

import errno
import shutil
from contextlib import ExitStack
from pathlib import Path

import tensorflow as tf

from harness.run import records
from harness.run.tf_errors import os_errors

STEP_MARKER = "train"  # the name of a dispatch in the trace
INPUT_MARKER = "waiting for batches"


class ProfilerObserver(records.Observer):
    """Profiles the dispatches that hold the steps after `first` up to `last`, into TensorBoard's
    `folder`. It must be called on the thread that trains, whose trace it marks. A dispatch is in
    the profile whole or not at all, with one step marker that begins where the loop asks for its
    batches. Starting and stopping the profiler takes time of the next window."""

    def __init__(self, folder: Path, *, first: int, last: int) -> None:
        self.path: Path | None = None  # `<folder>/plugins/profile/<time>/<host>.xplane.pb`
        self.first_step = self.last_step = 0  # steps done before the profile, and at its end
        self.num_dispatches = 0
        self._folder, self._first, self._last = folder, first, last
        self._running = False
        self._steps_per_dispatch = 0
        self._step_marker, self._input_marker = ExitStack(), ExitStack()

    def tell(self, record: records.Record) -> None:
        match record:
            case records.RunStart():
                self._steps_per_dispatch = int(record.choices["steps_per_dispatch"].value)
            case records.BatchesAwaited() if self.path is None:
                self._dispatch(record.step)
            case records.BatchesReady():
                self._input_marker.close()
            case records.Compilation() if self._running and not self.num_dispatches:
                # Begin again behind the compilation, which would fill the profile.
                self.close()
                self._dispatch(record.step)
                self._input_marker.close()
            case records.Window() if self._running:
                self._step_marker.close()
                self.num_dispatches += 1
                self.last_step = record.step
                if record.step >= self._last:
                    self.finish()
            case records.Summary():
                self.finish()

    def _dispatch(self, step: int) -> None:
        """Marks the dispatch after `step` in the profile, which begins here if it is due."""
        if not self._running:
            if step + self._steps_per_dispatch <= self._first:
                return  # the dispatch holds no step of interest
            with os_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                tf.profiler.experimental.start(str(self._folder))
            self._running, self.first_step = True, step
        marker = tf.profiler.experimental.Trace(STEP_MARKER, step_num=step, _r=1)
        self._step_marker.enter_context(marker)
        self._input_marker.enter_context(tf.profiler.experimental.Trace(INPUT_MARKER))

    def finish(self) -> None:
        self._input_marker.close()
        self._step_marker.close()
        if not self._running or not self.num_dispatches:
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
        self.path = new.pop()

    def _profiles(self) -> set[Path]:
        return set(self._folder.glob("plugins/profile/*/*.xplane.pb"))

    def close(self) -> None:
        self._input_marker.close()
        self._step_marker.close()
        if self._running:
            tf.profiler.experimental.stop(save=False)
            self._running = False
