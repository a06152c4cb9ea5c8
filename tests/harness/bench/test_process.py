"""Real processes that are measured: alone, in turn, slowed, killed, and with too little memory."""

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

from harness.bench.against import Side, measure_pair
from harness.bench.cell import measure
from harness.bench.process import (
    OWN_CODE,
    MeasuredProcess,
    ProcessFailedError,
)
from harness.bench.protocol import PROTOCOL_VERSION, Job
from harness.bench.rows import RESULTS_FILE_NAME, read_results
from harness.config import SyntheticOptions
from harness.data import store
from harness.data.synthetic import synthetic_corpus
from harness.errors import InputError
from tests.harness.bench.samples import CELL
from tests.harness.commands.runs import command_line, environment

ROWS = 1_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "corpus"
    options = SyntheticOptions(synthetic_rows=ROWS, synthetic_tokens=500)
    store.save(synthetic_corpus(options), folder, held_out_rows=200)
    return folder


def small(data: Path, **changes: Any) -> Job:
    execution = {"batch_size": 100, "implementation": "gather", "steps_per_dispatch": 4}
    settings: dict[str, Any] = {
        "data": {"data": str(data)},
        "model": {"hidden_units": [8], "dropout": [0.0]},
        "execution": {**execution, "input": "stream", **changes.pop("execution", {})},
    }
    return Job(settings=settings, **changes)


@pytest.fixture(scope="module")
def process(data: Path) -> Iterator[MeasuredProcess]:
    with MeasuredProcess(small(data)) as started:
        yield started


def test_it_says_what_it_is(process: MeasuredProcess) -> None:
    ready = process.wait_until_ready()
    assert Path(ready["code"]) == OWN_CODE
    resolved = ready["resolved"]
    assert (resolved["implementation"], resolved["replicas"]) == ("gather", 1)
    assert resolved["dataset"]["rows"] == 800
    assert 0 < ready["compile_seconds"] < ready["start_seconds"]


def test_steps_across_epochs(process: MeasuredProcess) -> None:
    turn = process.turn(steps=20)  # 8 steps an epoch: 4 + 4, in whole dispatches
    assert turn.windows.num_steps == (4,) * 5
    assert turn.windows.examples == (400,) * 5
    waits = zip(turn.windows.data_wait_seconds, turn.windows.seconds, strict=True)
    assert all(0 <= wait < seconds for wait, seconds in waits)
    assert turn.peak_rss_bytes > 10**8
    assert turn.peak_device_bytes is None


def test_a_turn_of_no_time_is_one_window(process: MeasuredProcess) -> None:
    assert len(process.turn(seconds=0.0).windows.seconds) == 1
    turn = process.turn(seconds=0.1)
    assert sum(turn.windows.seconds[:-1]) < 0.1


def test_it_can_be_halted_between_turns(process: MeasuredProcess) -> None:
    process.stop()
    state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state == "T"
    process.go_on()
    assert process.turn(steps=4).windows.num_steps == (4,)


def test_a_killed_process_is_taken_for_one_without_memory(data: Path) -> None:
    with MeasuredProcess(small(data)) as doomed:
        os.kill(doomed.pid, signal.SIGKILL)
        with pytest.raises(ProcessFailedError, match="and not for lack of memory"):
            doomed.turn(steps=1)


def test_other_ends_are_failures(data: Path) -> None:
    with MeasuredProcess(small(data)) as doomed:
        os.kill(doomed.pid, signal.SIGSEGV)
        with pytest.raises(ProcessFailedError, match="SIGSEGV"):
            doomed.wait_until_ready()


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (lambda data: small(data, execution={"batch_size": 801}), "--batch-size is 801 .* 800"),
        (lambda data: small(data, execution={"colour": "red"}), "unknown setting 'colour'"),
        (lambda data: small(data, protocol=PROTOCOL_VERSION + 1), "measures by protocol"),
    ],
)
def test_wrong_input_is_told(job: Any, message: str, data: Path) -> None:
    with pytest.raises(InputError, match=message):
        measure(CELL, job(data), repeat=0, seconds=None, steps=4)


def test_no_checkout(tmp_path: Path, data: Path) -> None:
    with pytest.raises(InputError, match=r"has no harness\.bench\.worker"):
        MeasuredProcess(small(data), code=tmp_path)


def test_a_process_ends_with_its_parent(data: Path) -> None:
    program = (
        "import json, os, sys\n"
        "from harness.bench.process import MeasuredProcess\n"
        "from harness.bench.protocol import Job\n"
        "process = MeasuredProcess(Job(settings=json.loads(sys.argv[1])))\n"
        "process.wait_until_ready()\n"
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
    for _ in range(100):
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
    # Side A is another checkout; side B sleeps as long as it works.
    for package in ("harness", "kernels"):
        shutil.copytree(OWN_CODE / package, tmp_path / package)
    a, b = Side(job=small(data), code=tmp_path), Side(job=small(data), slow_down=1.0)
    pair = measure_pair(CELL, a, b, repeat=1, seconds=0.1)
    assert 0 <= pair.num_warm_up < len(pair.log_ratios) >= 3
    assert np.median(pair.log_ratios) < -0.2  # log 1/2, were there nothing but the step
    assert pair.resolved_a["commit"] is None
    assert pair.resolved_a["implementation"] == pair.resolved_b["implementation"] == "gather"


def test_too_little_memory_ends_a_cell_and_not_the_sweep(tmp_path: Path) -> None:
    # The dense matrix of 15,000 rows is 7.3 GiB; 8 may be had for all.
    flags = ["--synthetic-rows", 20_000, "--synthetic-tokens", 2**17, "--batch-size", 8, 15_000]
    flags += ["--implementation", "dense", "--hidden-units", 8, "--dropout", 0, "--steps", 1]
    flags += ["--input", "stream", "--repeats", 2, "--plot", "off", "--bench-dir", tmp_path]
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
    assert [(r.cell.batch_size, r.repeat, r.status) for r in rows] == [
        (8, 0, "ok"),
        (15_000, 0, "out of memory"),
        (8, 1, "ok"),
    ]
    assert "memory" in rows[1].note
