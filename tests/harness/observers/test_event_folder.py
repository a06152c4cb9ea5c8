"""Whose the event files of a folder are, also of such as are none or torn."""

from pathlib import Path

import tensorflow as tf

from harness.observers.event_file import EventFile
from harness.observers.event_folder import (
    drop_events_after,
    event_files,
    writer_name,
    written_by,
)


def test_who_wrote_a_file(tmp_path: Path) -> None:
    ours = EventFile(tmp_path, writer=writer_name(Path("/runs/a")))
    ours.scalars(1, {"tag": 1.0})
    ours.close()
    assert written_by(ours.path) == "multi-hot-harness /runs/a"
    torn = tmp_path / "events.out.tfevents.torn"
    torn.write_bytes(ours.path.read_bytes()[:-3])
    assert written_by(torn) == "multi-hot-harness /runs/a"


def test_other_peoples_files(tmp_path: Path) -> None:
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        tf.summary.scalar("tag", 1.0, step=1)
        tf.summary.flush()
    (path,) = event_files(tmp_path)
    assert written_by(path) != writer_name(tmp_path)
    for content in (b"", b"no event file at all", bytes(100)):
        path = tmp_path / "events.out.tfevents.broken"
        path.write_bytes(content)
        assert written_by(path) == ""


def test_the_profilers_mark_is_no_event_file(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1.host.profile-empty").touch()
    (tmp_path / "plugins").mkdir()
    assert event_files(tmp_path) == []


def test_what_lies_beyond_a_step_is_taken_out_and_the_writer_stays(tmp_path: Path) -> None:
    file = EventFile(tmp_path, writer="me")
    for step in (1, 2, 3):
        file.scalars(step, {"tag": float(step)})
    file.close()
    drop_events_after(tmp_path, 2)
    (path,) = event_files(tmp_path)
    assert written_by(path) == "me"
    events = [
        tf.compat.v1.Event.FromString(record)
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    assert [event.step for event in events] == [0, 1, 2]
