"""What a run's observers are told of its machine, and when."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from harness.records import Observer, Window, WindowTelemetry
from harness.telemetry.observer import SILENT_SECONDS, MachineUse, TelemetryObserver
from tests.harness.observers.samples import REPOSITORY, run_start, window
from tests.harness.telemetry.nvml import library
from tests.harness.telemetry.nvml.library import Nvml

PATIENCE_SECONDS = 30.0
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


class Listener(Observer):
    def __init__(self) -> None:
        self.told: list[WindowTelemetry | Window] = []

    def on_telemetry(self, telemetry: WindowTelemetry) -> None:
        self.told.append(telemetry)

    def on_window(self, window: Window) -> None:
        self.told.append(window)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def test_a_windows_telemetry_comes_before_it_and_from_its_time_alone(
    tmp_path: Path,
) -> None:
    listener = Listener()
    telemetry = TelemetryObserver([listener], hz=100.0, bus_ids=(), environment=NO_GPU)
    observers = [telemetry, listener]
    telemetry.on_start(run_start(tmp_path))
    started, step = time.perf_counter(), 0

    def trained(seconds: float) -> Window:
        nonlocal step
        step += 20
        taken = window(step, seconds=seconds, ended_at_seconds=time.perf_counter())
        for observer in observers:
            observer.on_window(taken)
        return taken

    # No sample is complete in no time.
    empty = trained(1e-9)
    assert listener.told == [empty]

    def sampled() -> bool:
        return bool(trained(time.perf_counter() - started)) and any(
            isinstance(told, WindowTelemetry) and "host/cpu_percent" in told.figures
            for told in listener.told
        )

    wait_until(sampled)
    first = next(told for told in listener.told if isinstance(told, WindowTelemetry))
    following = listener.told[listener.told.index(first) + 1]
    assert isinstance(following, Window)
    assert following.step == first.step
    assert first.figures["host/rss_bytes"].min > 1e6
    assert first.figures["host/rss_bytes"].num_samples >= 1
    assert telemetry.finish() == MachineUse(num_gpus=0, joules=None)
    telemetry.close()


def test_without_telemetry_nothing_is_sampled_and_gpus_are_counted(
    tmp_path: Path,
) -> None:
    listener = Listener()
    telemetry = TelemetryObserver([listener], hz=0.0, bus_ids=("0000:17:00.0", "0000:18:00.0"))
    telemetry.on_start(run_start(tmp_path))
    telemetry.on_window(window(20, ended_at_seconds=time.perf_counter()))
    assert telemetry.finish() == MachineUse(num_gpus=2, joules=None)
    telemetry.close()
    assert listener.told == []


def test_a_run_that_fails_early_closes_what_never_started() -> None:
    TelemetryObserver([], hz=5.0, bus_ids=("0000:17:00.0",)).close()


# The clock jumps, so that nobody waits for as long as the message needs.
HANGING = """
import sys, time
from pathlib import Path
from harness.records import Observer
from harness.telemetry.observer import TelemetryObserver
from tests.harness.observers.samples import evaluation, run_start
class Printing(Observer):
    def on_warning(self, message):
        print(message)
ahead = 0.0
telemetry = TelemetryObserver(
    [Printing()], hz=100.0, bus_ids=["0000:17:00.0"], clock=lambda: time.perf_counter() + ahead
)
telemetry.on_start(run_start(Path()))
telemetry.on_evaluation(evaluation(80))
ahead = float(sys.argv[1])
telemetry.on_evaluation(evaluation(160))
telemetry.on_evaluation(evaluation(240))
telemetry.close()
"""


def test_a_driver_that_hangs_is_told_once(nvml: Nvml) -> None:
    nvml.write(library.system(init="hang"), library.modern(0))
    done = subprocess.run(
        [sys.executable, "-c", HANGING, str(SILENT_SECONDS + 0.5)],
        env=nvml.environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    # The host's sampler may be within a call just when the clock jumps.
    (line,) = [line for line in done.stdout.splitlines() if "the host" not in line]
    assert line.startswith("telemetry of the GPUs has had no answer for 1")
    assert line.endswith("s and stands still; training goes on")
