"""What `bench` says of GPUs, from an NVML library that answers from a script."""

import json
import subprocess
import sys
from typing import Any

from tests.harness.observers.samples import REPOSITORY
from tests.harness.telemetry.nvml import library
from tests.harness.telemetry.nvml.library import Nvml

CODE = """
import json, sys, time
from harness.bench import gpu
with gpu.Utilization(tuple(sys.argv[1:])) as utilization:
    time.sleep(0.05)
print(json.dumps([gpu.describe(), utilization.median_percent]))
"""


def ask(nvml: Nvml, *bus_ids: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *bus_ids],
        env=nvml.environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_gpus_are_described_and_watched_by_their_address(nvml: Nvml) -> None:
    nvml.write(
        library.system(),
        library.modern(0, utilization_percent=10),
        library.modern(1, utilization_percent=70),
        library.old(2),
        library.modern(3),
        [f"gpu3.* = error {library.ERROR_GPU_IS_LOST}"],
    )
    described, percent = ask(nvml, "0000:18:00.0")
    assert percent == 70.0
    assert [gpu["name"] for gpu in described] == [*["NVIDIA Fake 100"] * 2, "NVIDIA Old 10"]
    assert described[0] == {
        "name": "NVIDIA Fake 100",
        "uuid": "GPU-0f2c9b1e-0000-4000-8000-000000000000",
        "driver": "580.65.06",
        "memory_bytes": 80_000_000_000,
        "max_sm_clock_mhz": 1980,
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "power_limit_watts": 700.0,
    }
    assert described[2]["power_limit_watts"] is None


def test_a_slice_has_no_utilization_and_a_machine_may_have_no_gpu(nvml: Nvml) -> None:
    nvml.write(library.system(), library.modern(0, mig_mode=1), library.slice_of(0, 0))
    assert ask(nvml, "0000:17:00.0")[1] is None
    assert ask(nvml)[1] is None
    nvml.write([f"system.init = error {library.ERROR_DRIVER_NOT_LOADED}"])
    assert ask(nvml, "0000:17:00.0") == [[], None]
