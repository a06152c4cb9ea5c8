"""What is checked before TensorFlow computes: that the run is alone, which GPUs it can use, and
which of CUDA's libraries are missing."""

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pynvml
import tensorflow as tf
from rich.console import Console
from rich.text import Text

from harness.errors import InputError, as_command
from harness.observe import nvml
from harness.observe.nvml import VISIBLE, Card, hides_all, visible_cards

Gpu = tuple[str, tuple[int, int] | None]
"""Name and compute capability, None where it is not known."""
CUDA_INSTALL = f"{sys.executable} -m pip install 'tensorflow[and-cuda]'"
_ON_CPU = f"The CPU computes instead; {VISIBLE}=-1 chooses it without this warning."

CUDA_PACKAGES = {
    "libcudart.so.12": "nvidia-cuda-runtime-cu12",
    "libcublas.so.12": "nvidia-cublas-cu12",
    "libcublasLt.so.12": "nvidia-cublas-cu12",
    "libcufft.so.11": "nvidia-cufft-cu12",
    "libcusolver.so.11": "nvidia-cusolver-cu12",
    "libcusparse.so.12": "nvidia-cusparse-cu12",
    "libcudnn.so.9": "nvidia-cudnn-cu12",
    "libnccl.so.2": "nvidia-nccl-cu12",
    "libcupti.so.12": "nvidia-cuda-cupti-cu12",
    "libnvrtc.so.12": "nvidia-cuda-nvrtc-cu12",
    "libnvJitLink.so.12": "nvidia-nvjitlink-cu12",
    "ptxas": "nvidia-cuda-nvcc-cu12",
    "libdevice.10.bc": "nvidia-cuda-nvcc-cu12",
}
"""What TensorFlow needs of CUDA 12, and the package of its extra `and-cuda` that brings it."""
_TOOLS = {"ptxas": "bin/ptxas", "libdevice.10.bc": "nvvm/libdevice/libdevice.10.bc"}
"""What XLA compiles with, and its place in a CUDA folder. The other needs are libraries."""
# Run in a process of its own: in this one the libraries would stay loaded and take memory.
_LIST_MISSING = """
import contextlib, ctypes, json, sys
missing = []
for places in json.loads(sys.argv[1]):
    for place in places:
        with contextlib.suppress(OSError):
            ctypes.CDLL(place)
            break
    else:
        missing.append(places[0])
print(json.dumps(missing))
"""


def check_single_task(environment: Mapping[str, str]) -> None:
    """Refuses to train as one of several tasks, each of which would train everything.

    Raises:
        InputError: when TF_CONFIG describes a cluster of several tasks, or SLURM started several.
    """
    config = environment.get("TF_CONFIG") or "{}"
    try:
        tasks = sum(map(len, json.loads(config).get("cluster", {}).values()))
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"TF_CONFIG is '{config:.200}', which is no cluster; unset it") from error
    if tasks > 1:
        raise InputError(
            f"TF_CONFIG is '{config:.200}', a cluster of {tasks} tasks, and training on several "
            "machines is not supported; unset it"
        )
    # srun sets all of these for its step; a batch script has those of the job.
    for name, least in (("SLURM_STEP_NUM_TASKS", 2), ("SLURM_NTASKS", 2), ("SLURM_PROCID", 1)):
        value = environment.get(name, "")
        if value.isdecimal() and int(value) >= least:
            raise InputError(
                f"{name} is {value}: in a SLURM job of several tasks each would train everything; "
                "start one, as with srun --ntasks=1, and give it all GPUs of its machine"
            )


def is_too_new(gpu: Gpu, build: Mapping[str, Any]) -> bool:
    """Whether XLA would abort the process when it first compiles for this GPU (tensorflow 111958):
    it uses no later PTX version than that of the CUDA it was built with.

    Args:
        gpu: as TensorFlow or NVML knows it.
        build: `tf.sysconfig.get_build_info()`.
    """
    if gpu[1] is None or not build["is_cuda_build"]:
        return False
    return gpu[1] >= (10, 0) and _version(build) < (12, 8)


def _version(build: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(map(int, build["cuda_version"].split(".")))


def unusable_gpus(
    *,
    listed: Sequence[Gpu],
    cards: Sequence[Card],
    build: Mapping[str, Any],
    driver_cuda: tuple[int, int] | None,
    environment: Mapping[str, str],
) -> tuple[str, ...]:
    """Warnings: the visible GPUs that a run cannot use, each with the reason and the remedy.

    Args:
        listed: by TensorFlow.
        cards: those that answer NVML.
        build: `tf.sysconfig.get_build_info()`.
        driver_cuda: the newest CUDA that the driver supports; None where there is no driver.
        environment: the process's. One that hides all GPUs on purpose is no reason for a warning.
    """
    if hides_all(environment):
        return ()
    visible = visible_cards(cards, environment)
    if cards and not visible:
        why = "the GPUs are in MIG mode and have no slice; nvidia-smi mig -cgi makes one"
        if VISIBLE in environment:
            why = f"{VISIBLE} is '{environment[VISIBLE]}', which names no GPU of this machine"
        return (f"{why}. {_ON_CPU}",)
    reasons: dict[str, list[Gpu]] = {}
    unmatched = Counter(capability for _, capability in listed)
    for card in visible if len(visible) > len(listed) else ():
        gpu = (card.name, card.compute_capability)
        if unmatched[card.compute_capability] > 0:
            unmatched[card.compute_capability] -= 1
        else:
            reasons.setdefault(_why_not_listed(gpu, build, driver_cuda), []).append(gpu)
    too_new = [gpu for gpu in listed if is_too_new(gpu, build)]
    if too_new:
        reasons.setdefault(_why_too_new(build), []).extend(too_new)
    found = [
        f"TensorFlow cannot use {', '.join(map(_in_words, gpus))}: {why}."
        for why, gpus in reasons.items()
    ]
    if found and len(too_new) == len(listed):
        found[-1] += f" {_ON_CPU}"
    return tuple(found)


def _why_not_listed(gpu: Gpu, build: Mapping[str, Any], driver_cuda: tuple[int, int] | None) -> str:
    if not build["is_cuda_build"]:
        return f"it is built without CUDA; {CUDA_INSTALL}"
    if is_too_new(gpu, build):
        return _why_too_new(build)
    oldest = min(
        divmod(int(re.sub(r"\D", "", name)), 10) for name in build["cuda_compute_capabilities"]
    )
    if gpu[1] is not None and gpu[1] < oldest:
        return f"it is built for compute capability {oldest[0]}.{oldest[1]} and above"
    if libraries := missing_libraries():  # takes up to a second
        names = ", ".join(libraries[:2]) + (", ..." if len(libraries) > 2 else "")
        return f"CUDA libraries are missing ({names}); {CUDA_INSTALL}"
    if driver_cuda is not None and driver_cuda[0] < _version(build)[0]:
        return (
            f"the driver is for CUDA up to {driver_cuda[0]}.{driver_cuda[1]}, and TensorFlow wants "
            f"{build['cuda_version']}; install a newer driver"
        )
    return f"its log has the reason: TF_CPP_MIN_LOG_LEVEL=0 {as_command('doctor')}"


def _why_too_new(build: Mapping[str, Any]) -> str:
    return (
        f"it is built with CUDA {build['cuda_version']}, which compiles for compute capability 9.x "
        "and below, and would abort; install one that is built with CUDA 12.8 or later"
    )


def _in_words(gpu: Gpu) -> str:
    name, capability = gpu
    known = "unknown" if capability is None else f"{capability[0]}.{capability[1]}"
    return f"{name} (compute capability {known})"


def _described(device: Any) -> Gpu:
    details = tf.config.experimental.get_device_details(device)
    return details.get("device_name", device.name), details.get("compute_capability")


def hide_too_new_gpus() -> None:
    """Hides from TensorFlow the GPUs for which it would abort; call it before TensorFlow starts."""
    build, gpus = tf.sysconfig.get_build_info(), tf.config.get_visible_devices("GPU")
    kept = [gpu for gpu in gpus if not is_too_new(_described(gpu), build)]
    if len(kept) < len(gpus):
        tf.config.set_visible_devices(kept, "GPU")


def gpu_warnings() -> tuple[str, ...]:
    """The warnings of `unusable_gpus` about this machine, once `hide_too_new_gpus` was called."""
    hide_too_new_gpus()
    listed = tuple(map(_described, tf.config.list_physical_devices("GPU")))  # hidden ones as well
    cards: tuple[Card, ...] = ()
    driver_cuda, trouble = None, ""
    try:
        with nvml.opened():
            cards, driver_cuda = nvml.cards(), nvml.driver_cuda_version()
            if not cards and nvml.lost():
                trouble = "No GPU answers NVML; the kernel's log has the reason, a line with Xid"
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:  # as on most CPU-only machines
            trouble = nvml.words(error)
    if trouble and not (listed or hides_all(os.environ)):
        return (f"{trouble}. {_ON_CPU}",)
    return unusable_gpus(
        listed=listed,
        cards=cards,
        build=tf.sysconfig.get_build_info(),
        driver_cuda=driver_cuda,
        environment=os.environ,
    )


def warn_of_gpus(console: Console) -> None:
    """Prints `gpu_warnings`; call it before TensorFlow starts."""
    for text in gpu_warnings():
        console.print(Text(f"warning: {text}", "yellow"), soft_wrap=True)


@functools.cache
def missing_libraries() -> tuple[str, ...]:
    """CUDA's libraries that neither the system's loader nor the packages beside TensorFlow have."""
    wanted = [
        [name, *(str(path) for folder in _packages() for path in folder.glob(f"*/lib/{name}"))]
        for name in CUDA_PACKAGES
        if name not in _TOOLS
    ]
    command = [sys.executable, "-c", _LIST_MISSING, json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout))


def missing_tools(folders: Iterable[Path]) -> tuple[str, ...]:
    """XLA's tools that are in none of the CUDA folders; `ptxas` may be on the PATH instead."""
    places = [(name, folder / path) for folder in folders for name, path in _TOOLS.items()]
    found = {name for name, place in places if place.is_file()}
    if shutil.which("ptxas"):
        found.add("ptxas")
    return tuple(name for name in _TOOLS if name not in found)


def cuda_folders(version: str) -> list[Path]:
    """Where XLA looks for its tools (tsl/platform/default/cuda_root_path.cc)."""
    major_minor = ".".join(version.split(".")[:2])
    system = (f"/usr/local/cuda-{major_minor}", "/usr/local/cuda", "/opt/cuda", sys.prefix)
    return [*(folder / "cuda_nvcc" for folder in _packages()), *map(Path, system)]


def _packages() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    return [] if spec is None else list(map(Path, spec.submodule_search_locations or []))
