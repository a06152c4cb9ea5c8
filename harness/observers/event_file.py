"""Scalars in TensorBoard's event file format: a TFRecord file of `Event` messages.

`tf.summary.scalar` runs an op for every tag: 1.2 ms for a window's twelve on one core of an AMD
EPYC. One message with all of a window's scalars costs 0.02 ms there and reads the same.
"""

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from harness.files import os_error, replacing

_NAME = "events.out.tfevents."
_counter = itertools.count()


def drop_all_events(folder: Path) -> None:
    """Removes the event files in `folder`: a run that starts afresh has no curves yet."""
    for path in folder.glob(f"{_NAME}*"):
        path.unlink()


def drop_events_after(folder: Path, step: int) -> None:
    """Takes out of the event files in `folder` what lies beyond `step`, and a torn last record.

    TensorBoard would otherwise draw the steps that a resumed run repeats twice; it has no mark for
    them that all its readers heed. Each file is replaced whole or stays as it was.

    Raises:
        OSError: naming the file, when it cannot be read or replaced.
    """
    for path in sorted(folder.glob(f"{_NAME}*")):
        with (
            replacing(path) as beside,
            _os_errors(path),
            tf.io.TFRecordWriter(str(beside)) as writer,
        ):
            try:
                for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                    if tf.compat.v1.Event.FromString(record).step <= step:
                        writer.write(record)
            except tf.errors.DataLossError:
                pass  # torn when the run before was killed; readers stop here too


@contextlib.contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    """TensorFlow's error about the file at `path`, as the OSError that it was at first."""
    try:
        yield
    except tf.errors.OpError as error:
        raise os_error(error.message, path) from error


class EventFile:
    """A new event file in `folder`, which is made where it is missing.

    TensorBoard reads all event files of a folder as one run, in the order of their names.

    Raises:
        OSError: from any method, naming the file, when it cannot be written. Readers pass over the
            torn record that a full disk may leave at the end.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        self._clock = clock
        folder.mkdir(parents=True, exist_ok=True)
        # The name is tf.summary's: time first, so that files sort by it.
        self.path = folder / (
            f"{_NAME}{int(clock()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_counter)}.v2"
        )
        with _os_errors(self.path):
            self._writer = tf.io.TFRecordWriter(str(self.path))
        self._add(tf.compat.v1.Event(file_version="brain.Event:2"))
        self.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one value for each tag at `step`; float32 on file, as tf.summary writes them."""
        event = tf.compat.v1.Event(step=step)
        for tag, number in values.items():
            value = event.summary.value.add(tag=tag)
            value.metadata.plugin_data.plugin_name = "scalars"
            value.tensor.dtype = tf.float32.as_datatype_enum
            value.tensor.tensor_shape.SetInParent()
            value.tensor.float_val.append(number)
        self._add(event)

    def summary(self, step: int, summary: Any) -> None:
        """Adds a whole `Summary` message, TensorFlow's or TensorBoard's, at `step`."""
        event = tf.compat.v1.Event(step=step)
        event.summary.MergeFromString(summary.SerializeToString())
        self._add(event)

    def flush(self) -> None:
        """Hands everything written so far to the operating system."""
        with _os_errors(self.path):
            self._writer.flush()

    def close(self) -> None:
        """Flushes and closes."""
        with _os_errors(self.path):
            self._writer.close()

    def _add(self, event: "tf.compat.v1.Event") -> None:
        event.wall_time = self._clock()
        with _os_errors(self.path):
            self._writer.write(event.SerializeToString())
