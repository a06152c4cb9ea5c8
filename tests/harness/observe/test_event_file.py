"""Event files, read with TensorFlow's own reader."""

import os
from pathlib import Path

import pytest
import tensorflow as tf

from harness.errors import InputError
from harness.observe.event_file import EventFile, drop_all_events, drop_events_after


def steps(folder: Path) -> list[int]:
    (path,) = folder.glob("events*")
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [tf.compat.v1.Event.FromString(record).step for record in records]


def test_the_events_after_a_step_are_removed(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    for step in (1, 2, 3):
        file.scalars(step, {"tag": float(step)})
    file.close()
    assert steps(tmp_path) == [0, 1, 2, 3]
    drop_events_after(tmp_path, 2)
    assert steps(tmp_path) == [0, 1, 2]


def times(folder: Path) -> list[float]:
    """Of all events, in the order in which TensorBoard reads them."""
    return [
        tf.compat.v1.Event.FromString(record).wall_time
        for path in sorted(folder.iterdir(), key=lambda path: path.name)
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]


def test_a_clock_that_is_set_back_disorders_nothing(tmp_path: Path) -> None:
    last_time = -1.0
    for start in (1000.5, 900.0, -50.0):
        clock = iter([start, start + 1, start + 2, start - 500, start + 3])
        file = EventFile(tmp_path, last_time=last_time, clock=clock.__next__)
        for step in (1, 2, 3):
            file.scalars(step, {"tag": 1.0})
        file.close()
        last_time = drop_events_after(tmp_path, 2)
    # The names, by which readers order the files, hold whole seconds.
    assert times(tmp_path) == [1001.5, 1002.5, 1002.5, *[1003.0] * 3, *[1004.0] * 3]


def test_only_event_files_are_removed(tmp_path: Path) -> None:
    EventFile(tmp_path).close()
    (tmp_path / "mine").touch()
    drop_all_events(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("kind", ["fifo", "text", "record"])
def test_what_is_no_event_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "events.out.tfevents.1.host.1.0.v2"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "record":
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(b"\xff no event")
    else:
        path.write_text("text")
    if kind == "text":  # as a torn record
        assert drop_events_after(tmp_path, 1) == -1
    else:
        with pytest.raises(InputError, match="Remove it to resume without its records"):
            drop_events_after(tmp_path, 1)
