"""The parts of the script for the first hour that can be tested without a GPU."""

import subprocess
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from benchmarks.gpu_first_hour import FailedError, Machine, bytes_copied, compared, saved_model

PROJECT_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_tried(tmp_path: Path) -> None:
    done = subprocess.run(
        [PROJECT_ROOT / "scripts" / "gpu-first-hour"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "TensorFlow sees no GPU" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_bytes_copied(tmp_path: Path) -> None:
    """TensorFlow's trace of a GPU describes copies in this way."""
    space = xplane_pb2.XSpace()
    plane = space.planes.add(name="/device:GPU:0")
    names = {1: "MemcpyH2D", 2: "MemcpyD2H"}
    for key, name in names.items():
        plane.event_metadata[key].id = key
        plane.event_metadata[key].name = name
    line = plane.lines.add()
    for key, size in ((1, 4096), (2, 8), (1, 100)):
        event = line.events.add(metadata_id=key)
        event.stats.add(metadata_id=7, int64_value=3)
        details = plane.stat_metadata[size]  # by reference, as TensorFlow does
        details.id, details.name = size, f"kind_src:pageable kind_dst:device size:{size} async:1"
        event.stats.add(metadata_id=8, ref_value=size)
    path = tmp_path / "host.xplane.pb"
    path.write_bytes(space.SerializeToString())
    assert bytes_copied(path) == 4196


def test_losses_that_differ_fail() -> None:
    assert "2.0e-03" in compared([("run", [1.0, 0.5], [1.0, 0.501], 1e-2)])
    with pytest.raises(FailedError, match=r"2\.0e-03"):
        compared([("run", [1.0, 0.5], [1.0, 0.501], 1e-3)])


def test_losses_of_a_run() -> None:
    flags = ["--synthetic-rows", "1000", "--epochs", "1", "--batch-size", "200"]
    flags += ["--hidden-units", "4", "--dropout", "0", "--steps-per-dispatch", "2"]
    losses = Machine("synthetic", is_rehearsal=True).losses(*flags, on_cpu=True)
    assert len(losses) == 3  # two dispatches and an evaluation


def test_a_saved_model_is_evaluated_predicts_and_is_exported() -> None:
    report = saved_model(Machine("synthetic", is_rehearsal=True))
    assert report.count("(exit code 0)") == 4
