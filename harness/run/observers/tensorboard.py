"""A run's curves, settings and network for TensorBoard."""

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary as SummaryProto

from harness.base.reading import damage
from harness.run.observers import tensorboard_pages as pages
from harness.run.observers.run_files import EVENT_FILES
from harness.run.records import Epoch, Inspection, Observer, Record, RunStart, Summary, Window
from harness.run.tf_errors import os_errors
from kernels.files import replacing


class TensorBoardObserver(Observer):
    """Writes an event file into a folder, in place of those that are there. A resumed run keeps the
    events up to its first step, and adds a file for those after it. The methods below list the tags
    of each record; telemetry adds `gpu/<index>/*` and `host/*`."""

    def __init__(self, folder: Path) -> None:
        """`folder` belongs to the run alone."""
        self._folder = folder
        self._writer: Any = None
        # Set by `RunStart`.
        self._start_step: int
        self._metrics: tuple[str, ...]
        self._evaluated: dict[str, float] = {}  # the values of the last evaluation, by tag

    def tell(self, record: Record) -> None:
        match record:
            case RunStart():
                self._start(record)
            case Window():
                self._window(record)
            case Epoch():
                self._epoch(record)
            case Inspection():
                self._inspection(record)
            case Summary():
                self._end(record)

    def _start(self, run: RunStart) -> None:
        self._start_step, self._metrics = run.start_step, run.metrics
        if run.start_step > 0:
            drop_events_after(self._folder, run.start_step)
        else:
            for path in self._folder.glob(EVENT_FILES):
                path.unlink()
        self._open()
        self._record(file_version="brain.Event:2")
        self._write(run.start_step, *pages.run_pages(run))
        # The Graphs page shows the last graph of a run.
        self._record(graph_def=pages.graph(run.layers).SerializeToString())

    def _window(self, window: Window) -> None:
        values = {
            "train/loss": window.loss,
            **{f"train/{name}": value for name, value in window.metrics.items()},
            "throughput/steps_per_second": window.steps_per_second,
            "throughput/examples_per_second": window.examples_per_second,
            "throughput/tokens_per_second": window.tokens / window.seconds,
            "throughput/step_time_ms": 1e3 * window.seconds / window.num_steps,
            "throughput/data_wait_fraction": window.data_wait_seconds / window.seconds,
            **{tag: spread.mean for tag, spread in window.telemetry.items()},
        }
        if window.loss_scale is not None:
            values["precision/loss_scale"] = window.loss_scale
            values["precision/skipped_steps"] = window.skipped_steps
        self._write(window.step, pages.scalars(values))

    def _epoch(self, epoch: Epoch) -> None:
        """Adds an evaluation's scalars, unless it was before the run was resumed."""
        evaluation = epoch.evaluation
        if evaluation is None:
            return
        values = {"loss": evaluation.loss, **evaluation.metrics}
        self._evaluated = {f"validation/{name}": value for name, value in values.items()}
        if evaluation.step > self._start_step:
            self._write(evaluation.step, pages.scalars(self._evaluated))

    def _inspection(self, inspection: Inspection) -> None:
        values = {"precision/non_finite_gradient_fraction": inspection.non_finite_fraction}
        if inspection.underflow_fraction is not None:
            values["precision/underflow_fraction"] = inspection.underflow_fraction
        histograms = [
            *(pages.histogram(f"weights/{found.name}", found) for found in inspection.weights),
            *(pages.histogram(f"gradients/{found.name}", found) for found in inspection.gradients),
        ]
        self._write(inspection.step, pages.scalars(values), *histograms)

    def _end(self, summary: Summary) -> None:
        """Adds the evaluations of the saved model that are new, and marks the run as ended."""
        new: dict[str, float] = {}
        for rows in ("test", "validation"):
            values = getattr(summary, rows)
            known = {f"{rows}/{name}": values.get(name) for name in ("loss", *self._metrics)}
            found = {tag: value for tag, value in known.items() if value is not None}
            if found != self._evaluated:
                new |= found
        done = not (summary.interrupted or summary.diverged)
        self._write(summary.steps, pages.scalars(new), pages.session_end(done=done))

    def close(self) -> None:
        if self._writer is not None:
            with os_errors(self._folder):
                self._writer.close()

    def _open(self) -> None:
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"{seconds:010}.{socket.gethostname()}.{os.getpid()}.{rest:09}.v2"
        with os_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / EVENT_FILES.replace("*", name)
            self._writer = tf.io.TFRecordWriter(str(path))

    def _write(self, step: int, *summaries: Any) -> None:
        """Writes `Summary` messages of TensorBoard's plugins at `step`, all in one record."""
        merged = SummaryProto()
        for summary in summaries:
            # As bytes: some are of TensorFlow's class of that name, others of TensorBoard's.
            merged.MergeFromString(summary.SerializeToString())
        self._record(step=step, summary=merged)

    def _record(self, **fields: Any) -> None:
        """Writes a record and flushes it: `tf.summary` would ignore one that cannot be written."""
        event = Event(wall_time=time.time(), **fields)
        with os_errors(self._folder):
            self._writer.write(event.SerializeToString())
            self._writer.flush()


def drop_events_after(folder: Path, step: int) -> None:
    """Removes the events after `step` from the event files in `folder`, and a torn last record.
    Otherwise TensorBoard would draw twice the steps that a resumed run repeats. This also removes
    HParams: the resumed run writes its own, and TensorBoard shows the first. Each file is replaced
    whole or stays as it was; an OSError names the file."""
    for index, found in enumerate(sorted(folder.glob(EVENT_FILES))):
        # TensorBoard reads files in the order of their names, which begin with the time. A number
        # sorts before the next file, even if the clock was set back.
        path = found.rename(folder / EVENT_FILES.replace("*", f"{index:010}.v2"))
        with (
            os_errors(path),
            replacing(path) as beside,
            tf.io.TFRecordWriter(str(beside)) as writer,
            contextlib.suppress(tf.errors.DataLossError),  # torn: the run was killed as it wrote
        ):
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                remedy = "Remove it to resume without its records."
                with damage(path, what="an event file of TensorBoard", remedy=remedy):
                    event = Event.FromString(record)
                is_hparams = any(v.tag.startswith("_hparams_/") for v in event.summary.value)
                if event.step <= step and not is_hparams:
                    writer.write(record)
