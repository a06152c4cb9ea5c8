"""Event files, read with TensorFlow's own reader."""

from pathlib import Path

import tensorflow as tf

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


def test_only_event_files_are_removed(tmp_path: Path) -> None:
    EventFile(tmp_path).close()
    (tmp_path / "mine").touch()
    drop_all_events(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
