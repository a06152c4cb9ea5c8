"""TensorBoard's event files: written through `tf.summary`, and cut back when a run is resumed."""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow as tf
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

from harness.observe.run_files import EVENT_FILES
from harness.reading import damage, opened
from kernels.files import reached_by, replacing


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
    """A new event file in `folder`, which is created if it is missing.

    Raises:
        OSError: from any method, naming the folder, when the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = tf.summary.create_file_writer(str(folder))

    @contextlib.contextmanager
    def at(self, step: int) -> Iterator[None]:
        """A context in which `tf.summary` writes to the file at `step`; flushed at its end."""
        with os_errors(self._folder), self._writer.as_default(step):
            yield

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one value for each tag at `step`, all in one record: a call of
        `tf.summary.scalar` takes 0.2 ms, a record of twelve values 0.3 ms."""
        messages = (scalar_pb(tag, value).SerializeToString() for tag, value in values.items())
        with self.at(step):
            tf.summary.experimental.write_raw_pb(b"".join(messages))  # joined, they are one message

    def close(self) -> None:
        """Closes the file; nothing can be written afterwards."""
        with os_errors(self._folder):
            self._writer.close()


def drop_events_after(folder: Path, step: int) -> None:
    """Removes the events after `step` from the event files in `folder`, and a torn last record.

    TensorBoard would otherwise draw the steps that a resumed run repeats twice. The run's HParams
    are removed too, as TensorBoard shows the first. Each file is replaced whole or stays as it was.

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
            contextlib.suppress(tf.errors.DataLossError),  # torn: the run was killed meanwhile
        ):
            records = tf.data.TFRecordDataset(str(reached_by(file.fileno())))
            for record in records.as_numpy_iterator():
                with damage(path, what="an event file of TensorBoard", remedy=remedy):
                    event = tf.compat.v1.Event.FromString(record)
                is_hparams = any(v.tag.startswith("_hparams_/") for v in event.summary.value)
                if event.step <= step and not is_hparams:
                    writer.write(record)
