"""The event files, read with TensorBoard's own reader."""

import os
import time
from pathlib import Path

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from harness.base.errors import InputError
from harness.run.observers.tensorboard import TensorBoardObserver
from harness.run.records import (
    Distribution,
)
from tests.harness.run.observers.samples import (
    epoch,
    inspection,
    run_start,
    summary,
    window,
)
from tests.harness.run.observers.tensorboard_app import TensorBoardApp


def curves(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns every tag's (step, value)s, as TensorBoard sees them."""
    reader = EventAccumulator(str(run_dir), size_guidance={"tensors": 0}).Reload()
    return {
        tag: [
            (e.step, tensor_util.make_ndarray(e.tensor_proto).item()) for e in reader.Tensors(tag)
        ]
        for tag in reader.Tags()["tensors"]
        if reader.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"
    }


def test_the_last_point_is_of_the_model_that_is_saved(tmp_path: Path) -> None:
    for loss, values in ((0.29, [0.885]), (0.25, [0.885, 0.9])):
        observer = TensorBoardObserver(tmp_path)
        observer.tell(run_start(tmp_path))
        observer.tell(epoch(160))
        observer.tell(summary(validation={"loss": loss, "accuracy": values[-1]}))
        observer.close()
        found = curves(tmp_path)
        expected = [(160, pytest.approx(value)) for value in values]
        assert found["validation/accuracy"] == expected
        assert found["test/accuracy"] == expected[:1], "no evaluation but that of the end"


def test_a_resumed_run_adds_a_file_and_takes_back_what_it_repeats(tmp_path: Path) -> None:
    for start_step, steps in ((0, (20, 40, 60)), (40, (60, 80))):
        observer = TensorBoardObserver(tmp_path)
        observer.tell(run_start(tmp_path, start_step=start_step))
        for step in steps:
            observer.tell(window(step, loss=start_step + step / 10))
        observer.tell(epoch(steps[-1]))
        observer.close()
        if start_step == 0:
            (first,) = (tmp_path).iterdir()
            began = int(first.name.split(".")[3])  # by which TensorBoard sorts a run's files
            assert 0 <= time.time() - began < 600
            os.truncate(first, first.stat().st_size - 5)  # as if killed in the midst of a write
    assert len(list((tmp_path).iterdir())) == 2
    read = curves(tmp_path)
    assert read["train/loss"] == [(20, 2.0), (40, 4.0), (60, 46.0), (80, 48.0)]
    assert [step for step, _ in read["validation/loss"]] == [80]


def test_an_inspections_shares_and_histograms(tmp_path: Path) -> None:
    observer = TensorBoardObserver(tmp_path)
    observer.tell(run_start(tmp_path))
    observer.tell(inspection(80, non_finite_fraction=0.5))
    spread = Distribution(
        name="first/kernel", edges=(-1.0, 0.5, 2.0), counts=(3, 7), num_non_finite=1
    )
    observer.tell(inspection(160, weights=(spread,), gradients=(spread,)))
    observer.close()
    read = curves(tmp_path)
    assert read["train/gradient_norm"] == [(80, 0.75), (160, 0.75)]
    assert read["precision/non_finite_gradient_fraction"] == [(80, 0.5), (160, 0.0)]
    app = TensorBoardApp(tmp_path)
    tags = {"weights/first/kernel", "gradients/first/kernel"}
    assert set(app.get("histograms/tags")["."]) == tags
    for tag in tags:
        ((_, step, bins),) = app.get("histograms/histograms", run=".", tag=tag)
        assert (step, bins) == (160, [[-1.0, 0.5, 3.0], [0.5, 2.0, 7.0]])


def test_a_file_with_other_records_is_not_resumed(tmp_path: Path) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "events.out.tfevents.1.host.1.0.v2")) as writer:
        writer.write(b"\xff no event")
    with pytest.raises(InputError, match="Remove it to resume without its records"):
        TensorBoardObserver(tmp_path).tell(run_start(tmp_path, start_step=1))
