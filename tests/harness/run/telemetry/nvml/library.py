"""A `libnvidia-ml.so.1` that answers from a script, for tests on machines without a GPU.

The unmodified nvidia-ml-py loads it as it loads NVIDIA's: in a process whose LD_LIBRARY_PATH begins
with its folder. The fixture `nvml` in tests/harness/conftest.py hands out an `Nvml`.

A script is a file of lines `SUBJECT.QUERY = ANSWER`. Subjects are `system`, `gpu0`, `gpu1`, ... and
`gpu0.mig0`, ... for slices; a GPU exists when it has a `uuid`. Queries are named in nvml.cc, and
`*` stands for all of a subject's. What a script leaves out is not supported. Answers:

    a number or a text                 is the answer
    square LOW HIGH PERIOD             HIGH in the first half of each PERIOD of CLOCK_MONOTONIC
    error CODE                         NVML's error of that number
    hang                               never returns
    ANSWER until NUMBER ANSWER         the first for so many calls, then the second

The file is read again whenever it is replaced.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent
ERROR_DRIVER_NOT_LOADED = 9
ERROR_GPU_IS_LOST = 15
ERROR_LIB_RM_VERSION_MISMATCH = 18


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of the library."""

    thread: int
    seconds: float
    """The time by CLOCK_MONOTONIC, which `time.perf_counter` and `time.monotonic` read."""
    function: str
    subject: str


class NoCompilerError(Exception):
    """The library cannot be built here."""


def build(folder: Path) -> Path:
    """Compiles the library into `folder`; returns its path.

    Raises:
        NoCompilerError: where there is no g++.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise NoCompilerError("needs g++, to build an NVML library of its own")
    path = folder / "libnvidia-ml.so.1"
    flags = ("-O1", "-std=c++17", "-Wall", "-Wextra", "-fPIC", "-shared")
    command = [compiler, *flags, f"-Wl,-soname,{path.name}", str(SOURCES / "nvml.cc"), "-o"]
    subprocess.run([*command, str(path)], check=True, capture_output=True, text=True)
    # The loader stops at an empty file: TensorFlow has no GPU, on a machine with real ones neither.
    (folder / "libcuda.so.1").touch()
    return path


def system(**answers: object) -> list[str]:
    """Returns the lines of a script for the driver, with other answers if given."""
    defaults = {
        "driver_version": "580.65.06",
        "cuda_version": 13000,
    }
    return _lines("system", defaults | answers)


def modern(index: int, **answers: object) -> list[str]:
    """Returns the lines of a script for a GPU that answers every query, with other answers if
    given."""
    defaults = {
        "name": "NVIDIA Fake 100",
        "uuid": f"GPU-{index}f2c9b1e-0000-4000-8000-00000000000{index}",
        "bus": f"00000000:{0x17 + index:02X}:00.0",
        "compute_capability": "9.0",
        "mig_mode": 0,
        "max_mig_devices": 7,
        "utilization_percent": 50,
        "memory_utilization_percent": 20,
        "memory_total_bytes": 80_000_000_000,
        "memory_used_bytes": 1_000_000_000,
        "power_milliwatts": 250_000,
        "temperature_celsius": 40 + index,
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "processes": "",
    }
    return _lines(f"gpu{index}", defaults | answers)


def old(index: int, **answers: object) -> list[str]:
    """Returns the lines of a script for a GPU that lacks half the queries: no utilization, power
    and slices."""
    defaults = {
        "name": "NVIDIA Old 10",
        "uuid": f"GPU-{index}0ldc4fd-0000-4000-8000-00000000000{index}",
        "bus": f"00000000:{0x17 + index:02X}:00.0",
        "compute_capability": "3.5",
        "memory_total_bytes": 2_000_000_000,
        "memory_used_bytes": 100_000_000,
        "temperature_celsius": 60,
        "sm_clock_mhz": 800,
        "memory_clock_mhz": 2600,
    }
    return _lines(f"gpu{index}", defaults | answers)


def slice_of(gpu: int, index: int, **answers: object) -> list[str]:
    """Returns the lines of a script for a MIG slice, of which NVML knows memory and processes, but
    neither utilization nor power."""
    defaults = {
        "name": "NVIDIA Fake 100 MIG 1g.10gb",
        "uuid": f"MIG-{index}5c0ffee-0000-5000-8000-00000000{gpu}00{index}",
        "memory_total_bytes": 10_000_000_000,
        "memory_used_bytes": 100_000_000 * (index + 1),
        "processes": "",
    }
    return _lines(f"gpu{gpu}.mig{index}", defaults | answers)


def _lines(subject: str, answers: Mapping[str, object]) -> list[str]:
    return [f"{subject}.{query} = {answer}" for query, answer in answers.items()]


class Nvml:
    """The library with a script and a log of calls of its own."""

    def __init__(self, library: Path, folder: Path) -> None:
        """Args:
        library: the path that `build` returned.
        folder: the folder of the script and the log.
        """
        self.library = library
        self._script = folder / "nvml-script"
        self._log = folder / "nvml-log"
        self.write(system())

    def write(self, *parts: list[str]) -> None:
        """Replaces the script by the parts, one after another; the last answer to a key counts."""
        beside = self._script.with_suffix(".new")
        beside.write_text("\n".join(line for part in parts for line in part) + "\n")
        beside.replace(self._script)

    def environment(self, **more: str) -> dict[str, str]:
        """Returns the environment of a process that loads the library and sees all GPUs."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("CUDA_")}
        path = os.pathsep.join(filter(None, (str(self.library.parent), env.get("LD_LIBRARY_PATH"))))
        return env | {
            "LD_LIBRARY_PATH": path,
            "FAKE_NVML_SCRIPT": str(self._script),
            "FAKE_NVML_LOG": str(self._log),
            **more,
        }

    def calls(self) -> list[Call]:
        """Returns every call so far, in order."""
        if not self._log.exists():
            return []
        lines = (line.split() for line in self._log.read_text().splitlines())
        return [
            Call(thread=int(thread), seconds=float(seconds), function=function, subject=subject)
            for thread, seconds, function, subject in lines
        ]
