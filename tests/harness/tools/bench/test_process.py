"""Real processes that are measured: alone, in turns, killed, and with too little memory."""

import json
import os
import resource
import shutil
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
from harness.base.errors import InputError
from harness.data import store
from harness.data.options import SyntheticOptions
from harness.data.synthetic import synthetic_corpus
from harness.tools.bench import process as process_module
from harness.tools.bench.against import Side
from harness.tools.bench.measure import measure, measure_pair
from harness.tools.bench.process import PROTOCOL_VERSION, MeasuredProcess, ProcessEndedError
from harness.tools.bench.results import RESULTS_FILE_NAME, read_results
from tests.harness.cli.runs import command_line, environment
from tests.harness.tools.bench.samples import CELL

ROWS = 1_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "corpus"
    options = SyntheticOptions(synthetic_rows=ROWS, synthetic_tokens=500)
    store.save(synthetic_corpus(options), folder, held_out_rows=200)
    return folder


def small(data: Path, **changes: Any) -> dict[str, Any]:
    return {
        "data": str(data),
        "hidden_units": [8],
        "dropout": [0.0],
        "batch_size": 100,
        "implementation": "gather",
        "steps_per_dispatch": 4,
        "input": "stream",
        **changes,
    }


@pytest.fixture(scope="module")
def process(data: Path) -> Iterator[MeasuredProcess]:
    with MeasuredProcess(small(data)) as started:
        yield started


def test_it_says_what_it_is(process: MeasuredProcess) -> None:
    ready = process.wait_until_ready()
    assert Path(ready["code"]) == OWN_CODE
    resolved = ready["resolved"]
    assert (resolved["implementation"], resolved["replicas"]) == ("gather", 1)


def test_steps_across_epochs(process: MeasuredProcess) -> None:
    windows, rest = process.turn(steps=20)  # 8 steps an epoch: 4 + 4, in whole dispatches
    assert windows.num_steps == (4,) * 5
    assert windows.examples == (400,) * 5
    waits = zip(windows.data_wait_seconds, windows.seconds, strict=True)
    assert all(0 <= wait < seconds for wait, seconds in waits)
    assert rest["peak_rss_bytes"] > 10**8
    assert rest["peak_device_bytes"] is None


def test_a_turn_of_no_time_is_one_window(process: MeasuredProcess) -> None:
    assert len(process.turn(seconds=0.0)[0].seconds) == 1
    windows, _ = process.turn(seconds=0.1)
    assert sum(windows.seconds[:-1]) < 0.1


def test_it_can_be_halted_between_turns_and_killed(process: MeasuredProcess) -> None:
    process.stop()
    state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state == "T"
    process.go_on()
    assert process.turn(steps=4)[0].num_steps == (4,)
    # Killed, it is taken for one without memory.
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(ProcessEndedError, match="as the system does when") as ended:
        process.turn(steps=1)
    assert ended.value.status == "out of memory"


def test_other_ends_are_failures(data: Path) -> None:
    with MeasuredProcess(small(data)) as doomed:
        os.kill(doomed.pid, signal.SIGSEGV)
        with pytest.raises(ProcessEndedError, match="SIGSEGV") as ended:
            doomed.wait_until_ready()
    assert ended.value.status == "failed"


def test_wrong_settings_are_an_input_error(data: Path) -> None:
    with pytest.raises(InputError, match=r"--batch-size is 801 .* 800"):
        measure(CELL, small(data, batch_size=801), repeat=0, seconds=None, steps=4)


def test_another_protocol_is_an_input_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    told = f"measures by protocol {PROTOCOL_VERSION}, it was asked by {PROTOCOL_VERSION + 1}"
    with MeasuredProcess(small(data)) as started, pytest.raises(InputError, match=told):
        started.wait_until_ready()


def test_a_process_ends_with_its_parent(data: Path) -> None:
    program = (
        "import json, os, sys\n"
        "from harness.tools.bench.process import MeasuredProcess\n"
        "process = MeasuredProcess(json.loads(sys.argv[1]))\n"
        "process.wait_until_ready()\n"
        "process.stop()\n"
        "print(process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(small(data))],
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


def test_two_sides_take_turns(data: Path, tmp_path: Path) -> None:
    # Side A is another checkout; side B has so much more work that no machine misses it.
    for package in ("harness", "kernels"):
        shutil.copytree(OWN_CODE / package, tmp_path / package)
    a = Side(settings=small(data), code=tmp_path, state={"commit": "0123abc"})
    b = Side(settings=small(data, hidden_units=[256, 256]))
    pair = measure_pair(CELL, a, b, repeat=1, seconds=0.1)
    assert len(pair.log_ratios) >= 12
    assert np.median(pair.log_ratios) < -0.2
    assert pair.resolved_a["commit"] == "0123abc"
    assert pair.resolved_a["implementation"] == pair.resolved_b["implementation"] == "gather"


def test_too_little_memory_ends_a_cell_and_not_the_sweep(tmp_path: Path) -> None:
    # The dense matrix of 2,000 rows is 7.8 GiB; 8 may be had for all.
    flags = ["--synthetic-rows", 2_500, "--synthetic-tokens", 2**20, "--batch-size", 2_000, 8]
    flags += ["--implementation", "dense", "--hidden-units", 8, "--dropout", 0, "--steps", 1]
    flags += ["--input", "stream", "--repeats", 1, "--plot", "off", "--bench-dir", tmp_path]
    done = subprocess.run(
        command_line("bench", *flags),
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30,) * 2),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "out of memory" in done.stdout
    rows = read_results(tmp_path / RESULTS_FILE_NAME).rows
    assert [(r.cell.batch_size, r.status) for r in rows] == [(2_000, "out of memory"), (8, "ok")]
    assert "memory" in rows[0].note
