"""The event files that are in a folder already: whose they are, and what a new run takes out."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

from harness.files import os_error, replacing

FILE_NAME_START = "events.out.tfevents."
_PROFILER_END = ".profile-empty"
"""TensorFlow's profiler makes such a file, which holds nothing, so that TensorBoard looks there."""

_HPARAMS_START = "_hparams_/"


def writer_name(run_dir: Path) -> str:
    """How the event files of the run in `run_dir` name their writer, in their first record."""
    return f"multi-hot-harness {run_dir}"


def event_files(folder: Path) -> list[Path]:
    """All that hold something, in TensorBoard's order."""
    found = folder.glob(f"{FILE_NAME_START}*")
    return sorted(path for path in found if not path.name.endswith(_PROFILER_END))


def written_by(path: Path) -> str:
    """Who wrote an event file; empty where it does not say so."""
    # Not by tf.data, which would start TensorFlow before its devices are set up.
    for record in RawEventFileLoader(str(path)).Load():
        return str(tf.compat.v1.Event.FromString(record).source_metadata.writer)
    return ""


def drop_all_events(folder: Path) -> None:
    """Removes the event files in `folder`: a run that starts afresh has no curves yet."""
    for path in folder.glob(f"{FILE_NAME_START}*"):
        path.unlink()


def drop_events_after(folder: Path, step: int) -> None:
    """Takes out of the event files in `folder` what lies beyond `step`, and a torn last record;
    also the run's HParams, since TensorBoard reads those that come first.

    TensorBoard would otherwise draw the steps that a resumed run repeats twice; it has no mark for
    them that all its readers heed. Each file is replaced whole or stays as it was.

    Raises:
        OSError: naming the file, when it cannot be read or replaced.
    """
    for path in event_files(folder):
        try:
            with replacing(path) as beside, tf.io.TFRecordWriter(str(beside)) as writer:
                for record in _whole_records(path):
                    event = tf.compat.v1.Event.FromString(record)
                    is_hparams = any(v.tag.startswith(_HPARAMS_START) for v in event.summary.value)
                    if event.step <= step and not is_hparams:
                        writer.write(record)
        except tf.errors.OpError as error:
            raise os_error(error.message, path) from error


def _whole_records(path: Path) -> Iterator[bytes]:
    # A record is torn when the run before was killed; readers stop there too.
    with contextlib.suppress(tf.errors.DataLossError):
        yield from tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
