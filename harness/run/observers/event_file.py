"""TensorBoard's event files: TFRecord files of `Event` messages."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

from harness.base.reading import damage, opened
from harness.run.observers.run_files import EVENT_FILES
from kernels.files import opened_folder, reached_by, replacing


@contextlib.contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Turns TensorFlow's error about a file at `path`, or in it, back into the OSError that caused
    it, and gives any OSError the name `path`.

    TensorFlow's message holds "FILE; REASON" with the system's words; the number itself is lost.
    """
    try:
        yield
    except tf.errors.OpError as error:
        for number in errno.errorcode:
            if f"; {os.strerror(number)}" in error.message:
                raise OSError(number, os.strerror(number), str(path)) from error
        raise OSError(errno.EIO, error.message, str(path)) from error
    except OSError as error:
        error.filename = str(path)
        raise


class EventFile:
    """A new event file in `folder`, which is created if it is missing. Every record is flushed.

    `tf.summary` ignores a write that fails if the next flush succeeds, and the file ends there for
    its readers. `TFRecordWriter` reports each failure.

    Raises:
        OSError: from any method, naming the file, when it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / EVENT_FILES.replace("*", f"{time.time_ns()}.v2")
        with opened_folder(folder) as place, os_errors(self.path):
            self._writer = tf.io.TFRecordWriter(str(reached_by(place) / self.path.name))
        self._add(Event(file_version="brain.Event:2"))

    def write(self, step: int, *summaries: Any) -> None:
        """Writes `Summary` messages of TensorBoard's plugins at `step`, all in one record."""
        event = Event(step=step)
        for summary in summaries:
            event.summary.MergeFromString(summary.SerializeToString())
        self._add(event)

    def graph(self, step: int, graph: "tf.compat.v1.GraphDef") -> None:
        """Writes the graph of TensorBoard's Graphs page, which shows the last one of a run."""
        self._add(Event(step=step, graph_def=graph.SerializeToString()))

    def close(self) -> None:
        """Closes the file; nothing can be written afterwards."""
        with os_errors(self.path):
            self._writer.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        with os_errors(self.path):
            self._writer.write(event.SerializeToString())
            self._writer.flush()


def drop_events_after(folder: Path, step: int) -> None:
    """Removes the events after `step` from the event files in `folder`, and a torn last record.

    Otherwise TensorBoard would draw twice the steps that a resumed run repeats. This also removes
    the records of a run's start and end, which hold its HParams: the resumed run writes its own,
    and TensorBoard shows the first. Each file is replaced whole or stays as it was.

    Raises:
        InputError: when a file is no event file.
        OSError: naming the file, when it cannot be read or replaced.
    """
    remedy = "Remove it to resume without its records."
    for index, found in enumerate(sorted(folder.glob(EVENT_FILES))):
        # TensorBoard reads files in the order of their names, which begin with the time. A number
        # sorts before the next file, even if the clock was set back.
        path = found.rename(folder / EVENT_FILES.replace("*", f"{index:010}.v2"))
        with (
            opened(path, remedy=remedy) as file,
            os_errors(path),
            replacing(path) as beside,
            tf.io.TFRecordWriter(str(beside)) as writer,
            contextlib.suppress(tf.errors.DataLossError),  # torn: the run was killed as it wrote
        ):
            records = tf.data.TFRecordDataset(str(reached_by(file.fileno())))
            for record in records.as_numpy_iterator():
                with damage(path, what="an event file of TensorBoard", remedy=remedy):
                    event = Event.FromString(record)
                is_hparams = any(v.tag.startswith("_hparams_/") for v in event.summary.value)
                if event.step <= step and not is_hparams:
                    writer.write(record)
