"""Runs with GPUs that a scripted NVML library shows: curves as TensorBoard reads them, failures."""

import contextlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulated_gpu import nvml as library
from tests.emulated_gpu.nvml import Nvml
from tests.harness.cli.runs import (
    CORPUS,
    IMPLEMENTATION,
    NETWORK,
    REPOSITORY,
    command_line,
    records,
    run,
    summary,
)
from tests.harness.run.observers.test_tensorboard import curves

PATIENCE_SECONDS = 600.0
SMALL = (*CORPUS, *NETWORK, *IMPLEMENTATION, "--batch-size", "100")
PER_GPU = {
    *("utilization_percent", "memory_utilization_percent", "memory_used_bytes", "power_watts"),
    *("temperature_celsius", "sm_clock_mhz", "memory_clock_mhz"),
}


def gpu_tags(folder: Path) -> set[str]:
    return {tag for tag in curves(folder) if tag.startswith("gpu/")}


@contextlib.contextmanager
def training(nvml: Nvml, folder: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """Runs `harness train` for ever, until it is told to stop."""
    command = command_line("train", *SMALL, "--steps-per-dispatch", "16", "--epochs", "1000000")
    process = subprocess.Popen(
        [*command, "--run-dir", str(folder), *flags],
        env=nvml.environment(PYTHONPATH=str(REPOSITORY)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_window(folder: Path, holds: Callable[[dict[str, Any]], bool]) -> None:
    """Waits for the first new window whose telemetry `holds` accepts."""
    path = folder / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE_SECONDS
    seen = path.stat().st_size if path.exists() else 0
    while time.monotonic() < deadline:
        time.sleep(0.02)
        if not path.exists():
            continue
        with path.open() as file:
            file.seek(seen)
            lines = [line for line in file if line.endswith("\n")]
        for line in lines:
            record = json.loads(line)
            if "loss" in record and holds(record.get("telemetry", {})):
                return
        seen += sum(map(len, lines))
    pytest.fail("waited in vain for a window")


def has(tag: str) -> Callable[[dict[str, Any]], bool]:
    return lambda telemetry: tag in telemetry


def lacks(tag: str) -> Callable[[dict[str, Any]], bool]:
    return lambda telemetry: tag not in telemetry


def test_what_is_sampled_is_drawn_and_recorded(nvml: Nvml, tmp_path: Path) -> None:
    nvml.write(library.system(), library.modern(0), library.modern(1, power_milliwatts=100_000))
    folder = tmp_path / "run"
    # A window an epoch, each of half a second or more.
    layout = ("--batch-size", "500", "--steps-per-dispatch", "50", "--implementation", "dense")
    data = ("--synthetic-rows", "10000", "--epochs", "2")
    done = run(
        command_line("train", *data, *layout, "--telemetry-hz", "100", "--run-dir", folder),
        env=nvml.environment(PYTHONPATH=str(REPOSITORY)),
    )
    assert (done.code, done.err) == (0, "")
    read = curves(folder)
    expected = {f"gpu/{index}/{name}" for index in (0, 1) for name in PER_GPU}
    assert {tag for tag in read if not tag.startswith(("train/", "valid", "throughput/"))} == (
        expected | {"host/cpu_percent", "host/rss_bytes", "test/accuracy", "test/loss"}
    )
    windows = {line["step"]: line for line in records(folder) if "loss" in line}
    assert dict(read["gpu/0/utilization_percent"]) == dict.fromkeys(windows, 50.0)
    for line in windows.values():
        sampled = line["telemetry"]["gpu/0/utilization_percent"]
        assert (sampled["min"], sampled["mean"], sampled["max"]) == (50, 50, 50)
        assert sampled["samples"] > 1
    assert all(value > 1e8 for _, value in read["host/rss_bytes"])
    assert all(0 <= value <= 100 for _, value in read["host/cpu_percent"])
    # The GPUs take 250 W and 100 W all the time.
    figures = summary(folder)
    examples = sum(line["examples"] for line in windows.values())
    joules = 350 * figures["train_seconds"]
    assert figures["joules_per_1000_examples"] == pytest.approx(1000 * joules / examples, rel=0.02)
    assert figures["gpu_hours"] == pytest.approx(2 * figures["wall_seconds"] / 3600)
    assert f"{figures['joules_per_1000_examples']:,.3g} J per 1,000 examples" in done.out


def test_an_old_card_one_that_is_lost_one_that_hangs_and_a_library_that_vanishes(
    nvml: Nvml, tmp_path: Path
) -> None:
    cards = (library.system(), library.modern(0), library.modern(1), library.old(2))
    nvml.write(*cards)
    folder = tmp_path / "run"
    first, second = "gpu/0/power_watts", "gpu/1/power_watts"
    with training(nvml, folder, "--telemetry-hz", "50") as process:
        wait_for_window(folder, has(second))
        nvml.library.unlink()
        nvml.write(*cards, [f"gpu1.* = error {library.ERROR_GPU_IS_LOST}"])
        wait_for_window(folder, lacks(second))
        wait_for_window(folder, has(first))
        nvml.write(*cards, ["gpu0.* = hang"])
        wait_for_window(folder, lacks(first))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, err) == (130, "")
    assert re.search("warning: GPU 1 failed to report .*, training .* NVML says: GPU is lost", out)
    assert "warning: telemetry has had no answer for" in out
    assert "energy not known" in out
    assert "note: GPU 2 (NVIDIA Old 10) does not support these metrics: " in out
    assert "gpu/0/utilization_percent" in gpu_tags(folder)
    assert {tag for tag in gpu_tags(folder) if tag.startswith("gpu/2/")} == {
        *("gpu/2/memory_used_bytes", "gpu/2/temperature_celsius"),
        *("gpu/2/sm_clock_mhz", "gpu/2/memory_clock_mhz"),
    }
    figures = summary(folder)
    assert figures["joules_per_1000_examples"] is None
    assert figures["gpu_hours"] == pytest.approx(3 * figures["wall_seconds"] / 3600)
