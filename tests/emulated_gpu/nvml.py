"""Writes the scripts from which the emulated `libnvidia-ml.so.1` answers.

The unmodified nvidia-ml-py loads it as it loads NVIDIA's: in a process whose LD_LIBRARY_PATH begins
with its folder. The fixture `nvml` in tests/harness/conftest.py hands out an `Nvml`.

A script is a file of lines `SUBJECT.QUERY = ANSWER`. Subjects are `system`, `gpu0`, `gpu1`, ... and
`gpu0.mig0`, ... for slices; a GPU exists when it has a `uuid`. Queries are named in nvml.cc, and
`*` stands for all of a subject's. What a script leaves out is not supported. An answer is a number
or a text, `error CODE` for NVML's error of that number, or `hang`, which never returns.
"""

import os
from pathlib import Path

ERROR_DRIVER_NOT_LOADED = 9
ERROR_GPU_IS_LOST = 15
ERROR_LIB_RM_VERSION_MISMATCH = 18
_MODERN = {
    "name": "NVIDIA Fake 100",
    "compute_capability": "9.0",
    "mig_mode": 0,
    "max_mig_devices": 7,
    "utilization_percents": "50 20",  # of the GPU, and of its memory
    "memory_bytes": "80000000000 79000000000 1000000000",  # in all, free and used
    "power_milliwatts": 250_000,
    "temperature_celsius": 40,
    "sm_clock_mhz": 1980,
    "memory_clock_mhz": 2619,
    "processes": "",
}


def _lines(subject: str, answers: dict[str, object]) -> list[str]:
    return [f"{subject}.{query} = {answer}" for query, answer in answers.items()]


def system(**answers: object) -> list[str]:
    """Returns the lines of a script for the driver, with other answers if given."""
    return _lines("system", {"driver_version": "580.65.06", "cuda_version": 13000} | answers)


def modern(index: int, **answers: object) -> list[str]:
    """Returns the lines of a script for a GPU that answers every query, with other answers if
    given."""
    uuid = f"GPU-{index}f2c9b1e-0000-4000-8000-00000000000{index}"
    own = {"uuid": uuid, "bus": f"00000000:{0x17 + index:02X}:00.0"}
    return _lines(f"gpu{index}", own | _MODERN | answers)


def old(index: int) -> list[str]:
    """Returns the lines of a script for a GPU that lacks half the queries: no utilization, power
    and slices."""
    known = ("uuid", "bus", "memory", "temperature", "sm_clock")
    lines = [line for line in modern(index) if line.partition(".")[2].startswith(known)]
    return [*lines, f"gpu{index}.name = NVIDIA Old 10", f"gpu{index}.compute_capability = 3.5"]


def slice_of(gpu: int, index: int) -> list[str]:
    """Returns the lines of a script for a MIG slice, of which NVML knows memory and processes, but
    neither utilization nor power."""
    answers = {
        "name": "NVIDIA Fake 100 MIG 1g.10gb",
        "uuid": f"MIG-{index}5c0ffee-0000-5000-8000-00000000{gpu}00{index}",
        "memory_bytes": f"10000000000 {99 - index}00000000 {index + 1}00000000",
        "processes": "",
    }
    return _lines(f"gpu{gpu}.mig{index}", answers)


class Nvml:
    """The library with a script of its own, for processes in which TensorFlow has no GPU."""

    def __init__(self, device: Path, folder: Path) -> None:
        """Args:
        device: the folder of the emulated device.
        folder: a folder for the script, and for a link to the library.
        """
        self.library = folder / "nvml" / "libnvidia-ml.so.1"
        self.library.parent.mkdir()
        self.library.symlink_to(device / "lib" / self.library.name)
        # The loader stops at an empty file, on a machine with real GPUs, too.
        self.library.with_name("libcuda.so.1").touch()
        self._script = folder / "nvml-script"
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
        return env | {"LD_LIBRARY_PATH": path, "FAKE_NVML_SCRIPT": str(self._script), **more}
