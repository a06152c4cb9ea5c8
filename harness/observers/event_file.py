"""TensorBoard's event file format: a TFRecord file of `Event` messages.

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

from harness.files import os_error
from harness.observers.event_folder import FILE_NAME_START

_counter = itertools.count()


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

    def __init__(
        self, folder: Path, *, writer: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        """Args:
        folder: where it is made.
        writer: who writes it, for `event_folder.written_by`.
        clock: seconds since the epoch.
        """
        self._clock = clock
        folder.mkdir(parents=True, exist_ok=True)
        # The name is tf.summary's: time first, so that files sort by it.
        self.path = folder / (
            f"{FILE_NAME_START}{int(clock()):010d}.{socket.gethostname()}.{os.getpid()}"
            f".{next(_counter)}.v2"
        )
        with _os_errors(self.path):
            self._writer = tf.io.TFRecordWriter(str(self.path))
        first = tf.compat.v1.Event(file_version="brain.Event:2")
        first.source_metadata.writer = writer
        self._add(first)
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

    def graph(self, step: int, graph: "tf.compat.v1.GraphDef") -> None:
        """Adds the graph of TensorBoard's Graphs page; a run has one, the last."""
        self._add(tf.compat.v1.Event(step=step, graph_def=graph.SerializeToString()))

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
