"""Event files: the events that a resumed run keeps."""

from pathlib import Path

import pytest
import tensorflow as tf

from harness.base.errors import InputError
from harness.run.observers.tensorboard import EventFile, drop_events_after
from harness.run.observers.tensorboard_pages import scalars


def steps(folder: Path) -> list[int]:
    """Returns the steps of all events, in the order in which TensorBoard reads them."""
    return [
        tf.compat.v1.Event.FromString(record).step
        for path in sorted(folder.glob("events*"))
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]


def test_the_events_after_a_step_are_removed_and_the_next_file_follows(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    for written, last, kept in (((1, 2, 3), 2, [0, 1, 2]), ((3, 4, 5), 4, [0, 1, 2, 0, 3, 4])):
        file = EventFile(tmp_path)
        for step in written:
            file.write(step, scalars({"tag": float(step)}))
        drop_events_after(tmp_path, last)
        assert steps(tmp_path) == kept
    EventFile(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name[:30] for name in names[:2]] == [f"events.out.tfevents.{n:010}" for n in (0, 1)]
    assert len(names) == 4


@pytest.mark.parametrize("kind", ["text", "record"])
def test_what_is_no_event_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "events.out.tfevents.1.host.1.0.v2"
    if kind == "text":  # as a torn record
        path.write_text("text")
        drop_events_after(tmp_path, 1)
        assert steps(tmp_path) == []
        return
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"\xff no event")
    with pytest.raises(InputError, match="Remove it to resume without its records"):
        drop_events_after(tmp_path, 1)
