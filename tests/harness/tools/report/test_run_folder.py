"""The throughput of a run of two GPUs, as a report shows it."""

import json
from pathlib import Path

import numpy as np
import pytest

from harness.base.errors import InputError
from harness.run.observers.jsonl import JsonlObserver
from harness.run.observers.run_files import SummaryObserver
from harness.run.records import Spread
from harness.tools.report.run_folder import RunFolder
from tests.harness.run.observers.samples import epoch, run_start, summary, window

GPU = {"utilization_percent": 55.0, "memory_peak_bytes": 2.0**31, "power_watts": 250.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Writes what a run of 80 steps does, with telemetry in every second window."""
    spread = Spread(mean=2.0**30, min=0.0, max=2.0**31, num_samples=3)
    tags = ("gpu/0/memory_used_bytes", "gpu/1/memory_used_bytes", "gpu/0/sm_clock_mhz", "host/cpu")
    telemetry = [dict.fromkeys(tags, spread), {}]
    windows = [window(step, telemetry=telemetry[step // 20 % 2]) for step in (20, 40, 60, 80)]
    finished = summary(gpus=[GPU, {}], joules_per_1000_examples=8.0)
    for observer in (JsonlObserver(), SummaryObserver()):
        for record in (run_start(tmp_path), *windows, epoch(80), finished):
            observer.tell(record)
        observer.close()
    return tmp_path


def test_figures_and_choices(folder: Path) -> None:
    run = RunFolder(folder)
    assert run.figures() == {
        "examples/s, median": 62_500.0,
        "examples/s, mean": 60_000.0,
        "step time, ms": 8.0,
        "data wait": "2.5%",
        "wall time": "5.25 s",
        "training": "1.28 s (24.4%)",
        "compilation": "1.50 s (28.6%)",
        "start, evaluation, other": "2.47 s (47.0%)",
        "peak memory of the host": "1.23 GB",
        "GPU 0": "55 % busy, 2.00 GiB at most, 250 W",
        "GPU 1": "no samples",
        "joules per 1,000 examples": 8.0,
    }
    assert ("steps per dispatch", "20", "four windows per epoch") in run.choices()
    assert ("replicas", "1", "no GPU") in run.choices()


def test_curves_have_a_line_for_each_gpu_and_at_least_two_points(folder: Path) -> None:
    rates, learning = RunFolder(folder).curves()
    assert list(rates) == ["examples/s", "data wait, %", "GPU memory, GiB"]
    np.testing.assert_allclose(rates["examples/s"][""], [[20, 40, 60, 80], [62_500] * 4])
    np.testing.assert_allclose(rates["data wait, %"][""][1], 2.5)
    assert list(rates["GPU memory, GiB"]) == ["GPU 0", "GPU 1"]
    np.testing.assert_allclose(rates["GPU memory, GiB"]["GPU 1"], [[40, 80], [1, 1]])
    assert learning["accuracy"]["training"].shape == (2, 4)
    assert learning["accuracy"]["test"].shape == (2, 1)


def test_damaged_files_are_named(folder: Path) -> None:
    content = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(content | {"wall_seconds": "long"}))
    with pytest.raises(InputError, match=r"summary\.json is damaged"):
        RunFolder(folder).figures()
    profile = folder / "plugins/profile/2026/host.xplane.pb"
    profile.parent.mkdir(parents=True)
    profile.write_bytes(b"no profile")
    with pytest.raises(InputError, match=r"host\.xplane\.pb is damaged"):
        RunFolder(folder).step_parts()
