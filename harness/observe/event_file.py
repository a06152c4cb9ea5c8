"""TensorBoard's event files: TFRecord files of `Event` messages.

`tf.summary.scalar` runs an op for every tag: 1.2 ms for a window's twelve on one core of an AMD
EPYC. One message with all scalars of a window costs 0.02 ms there and reads the same.
"""

import contextlib
import errno
import itertools
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from harness.observe.run_files import EVENT_FILES
from harness.reading import damage, opened
from kernels.files import opened_folder, own_file, reached_by, replacing

_HPARAMS_START = "_hparams_/"
_counter = itertools.count()


@contextlib.contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Turns TensorFlow's error about the file at `path` back into the OSError that caused it, and
    gives any other the name of the file.

    Its message is "FILE; REASON [Op:NAME]" with the system's words; the number itself is lost.
    """
    try:
        yield
    except tf.errors.OpError as error:
        reason = error.message.rpartition("; ")[2].partition(" [Op:")[0]
        number = next((n for n in errno.errorcode if os.strerror(n) == reason), errno.EIO)
        raise OSError(number, reason, str(path)) from error
    except OSError as error:
        error.filename = str(path)
        raise


class EventFile:
    """A new event file in `folder`, which is created if it is missing.

    TensorBoard reads all event files of a folder as one run, in the order of their names. No event
    is given a time before the last one's, whatever the clock says.

    Raises:
        OSError: from any method, naming the file, when it cannot be written. A full disk may leave
            a torn record at the end, which readers skip.
    """

    def __init__(
        self, folder: Path, *, last_time: float = -1.0, clock: Callable[[], float] = time.time
    ) -> None:
        """Args:
        folder: of the file.
        last_time: of an event in the files there; this file follows them.
        clock: seconds since the epoch.
        """
        self._clock = clock
        # Names hold whole seconds.
        self._last_time = max(clock(), math.floor(last_time) + 1.0)
        folder.mkdir(parents=True, exist_ok=True)
        # The name is tf.summary's: time first, so that files sort by it.
        name = (
            f"{int(self._last_time):010d}.{socket.gethostname()}.{os.getpid()}.{next(_counter)}.v2"
        )
        self.path = folder / EVENT_FILES.replace("*", name)
        # New and this user's own: nothing that was put there under its name is written to.
        with opened_folder(folder) as place, os_errors(self.path):
            descriptor = own_file(reached_by(place) / self.path.name, os.O_CREAT | os.O_EXCL)
            try:
                self._writer = tf.io.TFRecordWriter(str(reached_by(descriptor)))
            finally:
                os.close(descriptor)
        self._add(tf.compat.v1.Event(file_version="brain.Event:2"))
        self.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one value for each tag at `step`; float32 in the file, as tf.summary writes them."""
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
        """Adds the graph of TensorBoard's Graphs page, which shows the last one of a run."""
        self._add(tf.compat.v1.Event(step=step, graph_def=graph.SerializeToString()))

    def flush(self) -> None:
        """Hands everything written so far to the operating system."""
        with os_errors(self.path):
            self._writer.flush()

    def close(self) -> None:
        """Flushes and closes."""
        with os_errors(self.path):
            self._writer.close()

    def _add(self, event: "tf.compat.v1.Event") -> None:
        self._last_time = event.wall_time = max(self._clock(), self._last_time)
        with os_errors(self.path):
            self._writer.write(event.SerializeToString())


def drop_all_events(folder: Path) -> None:
    """Removes the event files in `folder`."""
    for path in folder.glob(EVENT_FILES):
        path.unlink()


def drop_events_after(folder: Path, step: int) -> float:
    """Removes the events after `step` from the event files in `folder`, and a torn last record.

    TensorBoard would otherwise draw the steps that a resumed run repeats twice: not all its readers
    heed its own mark for that. The run's HParams are removed too, as TensorBoard shows the first.
    Each file is replaced whole or stays as it was.

    Returns:
        The latest time of what is left, in seconds since the epoch; -1 where nothing is.

    Raises:
        OSError: naming the file, when it cannot be read or replaced.
    """
    last_time = -1.0
    for path in sorted(folder.glob(EVENT_FILES)):
        with (
            os_errors(path),
            replacing(path) as beside,
            tf.io.TFRecordWriter(str(beside)) as writer,
        ):
            for record, event in _whole_records(path):
                is_hparams = any(v.tag.startswith(_HPARAMS_START) for v in event.summary.value)
                if event.step <= step and not is_hparams:
                    writer.write(record)
                    last_time = max(last_time, event.wall_time)
    return last_time


def _whole_records(path: Path) -> Iterator[tuple[bytes, "tf.compat.v1.Event"]]:
    remedy = "Remove it to resume without its records."
    with opened(path, remedy=remedy) as file:
        records = tf.data.TFRecordDataset(str(reached_by(file.fileno())))
        # A record is torn when the run was killed while writing it; readers stop there too.
        with contextlib.suppress(tf.errors.DataLossError):
            for record in records.as_numpy_iterator():
                with damage(path, what="an event file of TensorBoard", remedy=remedy):
                    event = tf.compat.v1.Event.FromString(record)
                yield record, event
