"""Real processes that are measured: alone, in turns, killed, and with too little memory."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.base.child import OWN_CODE
from harness.data import store
from harness.data.options import SyntheticOptions
from harness.data.synthetic import synthetic_corpus
from harness.run.stretches import stretches_of
from harness.tools.bench.measure import (
    MeasuredProcess,
    ProcessEndedError,
    Side,
    figures,
    without_warm_up,
)
from tests.harness.cli.runs import environment

ROWS = 1_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "corpus"
    options = SyntheticOptions(synthetic_rows=ROWS, synthetic_tokens=500)
    store.save(synthetic_corpus(options), folder, held_out_rows=200)
    return folder


def small(data: Path, **changes: Any) -> Side:
    settings = {
        "data": str(data),
        "hidden_units": [8],
        "dropout": [0.0],
        "batch_size": 100,
        "implementation": "gather",
        "steps_per_dispatch": 4,
        "input": "stream",
        **changes,
    }
    return Side(settings=settings)


@pytest.fixture(scope="module")
def process(data: Path) -> Iterator[MeasuredProcess]:
    with MeasuredProcess(small(data)) as started:
        yield started


def test_it_says_what_it_is(process: MeasuredProcess) -> None:
    resolved = process.wait_until_ready()
    assert (resolved["implementation"], resolved["replicas"]) == ("gather", 1)
    assert Path(resolved["code"]) == OWN_CODE


def test_a_turn_is_whole_dispatches_across_epochs(process: MeasuredProcess) -> None:
    assert len(process.turn(0.0)[0]) == 1
    windows, totals = process.turn(0.2)  # 8 steps an epoch: 4 + 4
    assert sum(window["seconds"] for window in windows[:-1]) < 0.2
    assert {(window["num_steps"], window["examples"]) for window in windows} == {(4, 400)}
    assert all(0 <= window["data_wait_seconds"] < window["seconds"] for window in windows)
    assert totals["compile_seconds"] > 0
    assert totals["peak_rss_bytes"] > 10**8
    assert totals["peak_device_bytes"] is None
    assert totals["gpus"] == []


def test_a_step_moves_and_computes_what_its_weights_and_ids_say(process: MeasuredProcess) -> None:
    bounds = process.limits()
    weights = 500 * 8 + 8 + 8 + 1
    assert bounds["bytes_per_step"] > 32 * weights
    assert bounds["flops_per_step"] > 12 * weights + 6 * 100 * 8
    assert bounds["copy_seconds"] > 0
    assert bounds["matmul_seconds"] > 0


def test_figures_are_of_the_stretches_after_the_warm_up() -> None:
    seconds = [9.0, 9.0, *range(1, 9)]
    windows = [
        {"seconds": one, "num_steps": 2, "examples": 1000, "data_wait_seconds": one / 4}
        for one in seconds
    ]
    gpus = [{"utilization_percent": 80.0, "power_watts": 200.0, "memory_peak_bytes": 5.0}]
    gpus += [{"utilization_percent": 60.0, "power_watts": 100.0}]
    totals = {"compile_seconds": 1.5, "peak_rss_bytes": 10**9, "peak_device_bytes": None}
    bounds = {"copy_seconds": 0.45, "matmul_seconds": 0.9}
    stretches = without_warm_up(stretches_of(windows, batch_size=500))
    found = figures(stretches, totals | {"gpus": gpus, "joules_per_1000_examples": 7.0}, bounds)
    assert found["step_time_ms_p50"] == pytest.approx(1e3 * 4.5 / 2)
    for percent in (95, 99):
        wanted = 500 * np.percentile(range(1, 9), percent)
        assert found[f"step_time_ms_p{percent}"] == pytest.approx(wanted)
    assert found["examples_per_second"] == pytest.approx((1000 / 4 + 1000 / 5) / 2)
    assert found["mean_examples_per_second"] == pytest.approx(8000 / sum(range(1, 9)))
    assert found["steps_per_second"] * 500 == pytest.approx(found["examples_per_second"])
    assert found["data_wait_fraction"] == pytest.approx(0.25)
    assert found["peak_device_bytes"] == 0
    assert found["gpu_utilization_percent"] == 70.0
    assert (found["gpu_power_watts"], found["gpu_memory_peak_bytes"]) == (300.0, 5.0)
    assert found["examples_per_second_per_gpu"] * 2 == found["examples_per_second"]
    assert found["joules_per_1000_examples"] == 7.0
    assert (found["copy_limit_ms"], found["matmul_limit_ms"]) == (450.0, 900.0)


def test_it_can_be_halted_between_turns_and_killed(process: MeasuredProcess) -> None:
    process.stop()
    state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state == "T"
    process.go_on()
    assert len(process.turn(0.0)[0]) == 1
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(ProcessEndedError, match="SIGKILL: perhaps because memory ran out"):
        process.turn(0.0)


def test_a_process_ends_with_its_parent(data: Path) -> None:
    program = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from harness.tools.bench.measure import MeasuredProcess, Side\n"
        "process = MeasuredProcess(Side(settings=json.loads(sys.argv[1])))\n"
        # It imports TensorFlow after it has tied itself to its parent.
        "while 'tensorflow' not in Path(f'/proc/{process.pid}/maps').read_text(): pass\n"
        "process.stop()\n"
        "print(process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(small(data).settings)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    pid = int(done.stdout)
    for _ in range(1200):  # a minute, for a busy machine
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return  # nobody asks for its end, but it ran to none
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the measured process outlived its parent")
