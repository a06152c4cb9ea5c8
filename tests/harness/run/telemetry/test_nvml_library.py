"""The library that other tests rely on, asked through the unmodified nvidia-ml-py."""

import subprocess
import sys
import time

from tests.harness.run.telemetry.nvml import library
from tests.harness.run.telemetry.nvml.library import Nvml


def ask(nvml: Nvml, code: str) -> list[str]:
    """Runs code in a process that loads the library as a user's loads NVIDIA's; returns its
    output."""
    done = subprocess.run(
        [sys.executable, "-c", f"from pynvml import *\n{code}"],
        env=nvml.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_modern_card_answers_everything_in_nvmls_units(nvml: Nvml) -> None:
    nvml.write(
        library.system(),
        library.modern(0, processes="4711:123456789 4712:5"),
        library.modern(1),
    )
    code = """
nvmlInit()
print(nvmlSystemGetDriverVersion(), nvmlSystemGetCudaDriverVersion_v2(), nvmlDeviceGetCount())
h, other = (nvmlDeviceGetHandleByIndex(i) for i in range(2))
print(nvmlDeviceGetName(h), nvmlDeviceGetUUID(h), nvmlDeviceGetPciInfo(h).busId)
print(nvmlDeviceGetPciInfo(h).bus, nvmlDeviceGetCudaComputeCapability(h))
u = nvmlDeviceGetUtilizationRates(h); print(u.gpu, u.memory)
m = nvmlDeviceGetMemoryInfo(h); print(m.total, m.used, m.free)
print(nvmlDeviceGetPowerUsage(h), nvmlDeviceGetTemperature(h, NVML_TEMPERATURE_GPU))
print(nvmlDeviceGetClockInfo(h, NVML_CLOCK_SM), nvmlDeviceGetClockInfo(h, NVML_CLOCK_MEM))
print([(p.pid, p.usedGpuMemory) for p in nvmlDeviceGetComputeRunningProcesses(h)])
print(nvmlDeviceGetComputeRunningProcesses(other))
same = nvmlDeviceGetHandleByPciBusId(b"0000:18:00.0"); print(nvmlDeviceGetName(same))
print(nvmlDeviceGetTemperature(nvmlDeviceGetHandleByUUID(nvmlDeviceGetUUID(other).encode()), 0))
nvmlShutdown()
"""
    assert ask(nvml, code) == [
        "580.65.06 13000 2",
        "NVIDIA Fake 100 GPU-0f2c9b1e-0000-4000-8000-000000000000 00000000:17:00.0",
        "23 (9, 0)",
        "50 20",
        "80000000000 1000000000 79000000000",
        "250000 40",
        "1980 2619",
        "[(4711, 123456789), (4712, 5)]",
        "[]",
        "NVIDIA Fake 100",
        "41",
    ]
    calls = nvml.calls()
    assert len({call.thread for call in calls}) == 1
    assert (calls[0].function, calls[0].subject) == ("nvmlInitWithFlags", "system")
    assert calls[0].seconds <= calls[-1].seconds <= time.monotonic()


def test_slices_and_what_an_old_card_lacks(nvml: Nvml) -> None:
    nvml.write(
        library.system(),
        library.modern(0, mig_mode=1),
        library.slice_of(0, 0),
        library.slice_of(0, 1),
        library.old(1),
    )
    code = """
nvmlInit()
h, old = (nvmlDeviceGetHandleByIndex(i) for i in range(2))
print(nvmlDeviceGetMigMode(h))
for i in range(nvmlDeviceGetMaxMigDeviceCount(h)):
    try:
        s = nvmlDeviceGetMigDeviceHandleByIndex(h, i)
    except NVMLError_NotFound:
        continue
    print(nvmlDeviceGetUUID(s), nvmlDeviceGetMemoryInfo(s).used)
    try:
        nvmlDeviceGetUtilizationRates(s)
    except NVMLError_NotSupported as error:
        print(error)
for ask in (nvmlDeviceGetPowerUsage, nvmlDeviceGetMigMode):
    try:
        ask(old)
    except NVMLError_NotSupported as error:
        print(error)
"""
    assert ask(nvml, code) == [
        "[1, 1]",
        "MIG-05c0ffee-0000-5000-8000-000000000000 100000000",
        "Not Supported",
        "MIG-15c0ffee-0000-5000-8000-000000000001 200000000",
        "Not Supported",
        *["Not Supported"] * 2,
    ]


def test_errors_come_when_the_script_says(nvml: Nvml) -> None:
    nvml.write(library.system(), library.modern(0, power_milliwatts="5000 until 2 error 15"))
    code = f"""
nvmlInit()
h = nvmlDeviceGetHandleByIndex(0)
print(nvmlDeviceGetPowerUsage(h), nvmlDeviceGetPowerUsage(h))
try:
    nvmlDeviceGetPowerUsage(h)
except NVMLError_GpuIsLost as error:
    print(error)
import os
new = os.environ["FAKE_NVML_SCRIPT"] + ".later"
with open(new, "w") as file:
    print("system.init = error {library.ERROR_LIB_RM_VERSION_MISMATCH}", file=file)
os.replace(new, os.environ["FAKE_NVML_SCRIPT"])
print(nvmlDeviceGetCount())
nvmlShutdown()
try:
    nvmlInit()
except NVMLError_LibRmVersionMismatch as error:
    print(error)
"""
    mismatch = "RM has detected an NVML/RM version mismatch."  # the words of nvidia-ml-py
    assert ask(nvml, code) == ["5000 5000", "GPU is lost", "0", mismatch]


def test_waves_follow_the_clock_that_python_measures_by(nvml: Nvml) -> None:
    nvml.write(
        library.system(),
        library.modern(0, utilization_percent="square 10 90 0.05"),
    )
    code = """
import time
nvmlInit()
h = nvmlDeviceGetHandleByIndex(0)
for _ in range(200):
    before = time.perf_counter()
    level = nvmlDeviceGetUtilizationRates(h).gpu
    after = time.perf_counter()
    if before // 0.025 == after // 0.025:  # both in the same half of a period
        print(level == (90 if before % 0.05 < 0.025 else 10))
    time.sleep(0.001)
"""
    answers = ask(nvml, code)
    assert set(answers) == {"True"}
    assert len(answers) > 50
