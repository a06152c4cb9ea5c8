"""TensorBoard's event files."""

import contextlib
import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from harness.base.reading import damage
from harness.run.observers.run_files import EVENT_FILES
from harness.run.tf_errors import os_errors
from kernels.files import replacing


class EventFile:
    """A new event file in `folder`. Every record is written and flushed by itself, since
    `tf.summary` ignores a record that cannot be written; methods raise an OSError that names the
    folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        made = f"{time.time_ns() // 10**9:010}.{socket.gethostname()}.{os.getpid()}"
        numbers = (folder / EVENT_FILES.replace("*", f"{made}.{n}.v2") for n in itertools.count())
        with os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = tf.io.TFRecordWriter(str(next(p for p in numbers if not p.exists())))
        self._record(file_version="brain.Event:2")

    def write(self, step: int, *summaries: Any) -> None:
        """Writes `Summary` messages of TensorBoard's plugins at `step`, all in one record."""
        merged = Summary()
        for summary in summaries:
            # As bytes: some are of TensorFlow's class of that name, others of TensorBoard's.
            merged.MergeFromString(summary.SerializeToString())
        self._record(step=step, summary=merged)

    def graph(self, graph: "tf.compat.v1.GraphDef") -> None:
        """Writes the graph of TensorBoard's Graphs page, which shows the last one of a run."""
        self._record(graph_def=graph.SerializeToString())

    def close(self) -> None:
        with os_errors(self._folder):
            self._writer.close()

    def _record(self, **fields: Any) -> None:
        event = Event(wall_time=time.time(), **fields)
        with os_errors(self._folder):
            self._writer.write(event.SerializeToString())
            self._writer.flush()


def drop_events_after(folder: Path, step: int) -> None:
    """Removes the events after `step` from the event files in `folder`, and a torn last record.

    Otherwise TensorBoard would draw twice the steps that a resumed run repeats. This also removes
    HParams: the resumed run writes its own, and TensorBoard shows the first. Each file is replaced
    whole or stays as it was; an OSError names the file.
    """
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
