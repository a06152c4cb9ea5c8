"""The doctor's findings about GPUs: driver, cards, slices, connections, CUDA's libraries, and
whether TensorFlow uses them."""

import itertools
import os
from collections.abc import Callable, Iterator
from multiprocessing import TimeoutError
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pynvml
import tensorflow as tf

from harness.cli.doctor import Finding
from harness.engine.devices import Devices
from harness.environment import (
    CUDA_INSTALL,
    CUDA_PACKAGES,
    cuda_folders,
    gpu_warnings,
    missing_libraries,
    missing_tools,
)
from harness.observe import nvml
from harness.observe.nvml import VISIBLE, Card, hides_all, same_bus

DRIVER_PARAMETERS = Path("/proc/driver/nvidia/params")
_CAP_SYS_ADMIN = 21
_MAX_LINKS = 18
"""NVLinks of a GPU (NVML_NVLINK_MAX_LINKS)."""
# As `nvidia-smi topo` explains its marks.
_PATHS = {
    0: "on one board",
    10: "one PCIe switch between them",
    20: "several PCIe switches between them",
    30: "a PCIe host bridge between them",
    40: "the same NUMA node",
    50: "different NUMA nodes",
}


def gpus(devices: Devices, *, patience_seconds: float = 20.0) -> tuple[Finding, ...]:
    """Every line about GPUs; a single one if the machine has no NVIDIA driver.

    Args:
        devices: what TensorFlow computes on.
        patience_seconds: a driver that takes longer to answer counts as hanging.
    """
    # A call that hangs in the driver ends with the process alone; the threads of a pool let it end.
    pool = ThreadPool(1)
    asked = pool.apply_async(lambda: tuple(_examine(devices)))
    pool.close()
    try:
        return asked.get(timeout=patience_seconds)
    except TimeoutError:
        text = f"does not answer within {patience_seconds:.0f} s; the kernel's log may have the "
        text += "reason, a line with Xid; reset the GPU or reboot"
        return (Finding("NVIDIA driver", "broken", text, "gpu"),)


def _examine(devices: Devices) -> Iterator[Finding]:
    try:
        with nvml.opened():
            driver, library = pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlSystemGetNVMLVersion()
            newest_cuda = "{}.{}".format(*nvml.driver_cuda_version())
            text = f"{driver}, for CUDA up to {newest_cuda}; NVML {library}"
            yield Finding("NVIDIA driver", "ok", text, "gpu")
            cards = nvml.cards()
            yield from _cards(cards)
            yield from _slices(cards)
            yield from _topology(cards)
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND and devices.device_type == "CPU":
            text = f"none, runs compute on the CPU. {nvml.words(error)}"
            yield Finding("GPU", "limited", text, "gpu")
        else:
            yield Finding("NVIDIA driver", "broken", nvml.words(error), "gpu")
        return
    yield _cuda_libraries()
    yield _seen(devices, cards)
    yield counters(DRIVER_PARAMETERS)


def _cards(cards: tuple[Card, ...]) -> Iterator[Finding]:
    for index, handle in enumerate(nvml.answering()):
        card = cards[index]
        words = [card.name, *_told(_memory, handle)]
        if card.compute_capability is not None:
            words.append("compute capability {}.{}".format(*card.compute_capability))
        yield Finding(f"GPU {index}", "ok", ", ".join([*words, card.bus, card.uuid]), "gpu")
    for index in nvml.lost():
        text = "does not answer; the kernel's log has the reason, a line with Xid; reset it or "
        yield Finding(f"NVML's GPU {index}", "broken", text + "reboot", "gpu")


def _told(query: Callable[..., str], *handles: Any) -> list[str]:
    """A card's answer, or nothing: in MIG mode some queries need administrator rights."""
    try:
        return [query(*handles)]
    except pynvml.NVMLError as error:
        if error.value not in nvml.UNAVAILABLE:
            raise
        return []


def _memory(handle: Any) -> str:
    return f"{pynvml.nvmlDeviceGetMemoryInfo(handle).total / 1e9:,.1f} GB"


def _slices(cards: tuple[Card, ...]) -> Iterator[Finding]:
    for index, card in enumerate(cards):
        subject = f"MIG of GPU {index}"
        if card.slices:
            names = ", ".join(card.slices)
            text = f"{len(card.slices)} slices, of which a process sees one: {names}"
            yield Finding(subject, "ok", text, "gpu")
        elif card.is_sliced:
            text = "on, without a slice: nothing can run there; make one (nvidia-smi mig -cgi), or "
            text += f"switch it off (nvidia-smi -i {index} -mig 0)"
            yield Finding(subject, "broken", text, "gpu")


def _topology(cards: tuple[Card, ...]) -> Iterator[Finding]:
    for (i, one), (j, other) in itertools.combinations(enumerate(nvml.answering()), 2):
        words = [*_links(one, cards[j].bus), *_told(_path, one, other)]
        text = "; ".join(words) or "NVML does not tell how they are connected"
        yield Finding(f"GPU {i} and {j}", "ok", text)


def _path(one: Any, other: Any) -> str:
    level = pynvml.nvmlDeviceGetTopologyCommonAncestor(one, other)
    return _PATHS.get(level, f"topology level {level}")


def _links(handle: Any, bus: str) -> list[str]:
    """The active NVLinks: those to the GPU at `bus`, or all where they end at a switch."""
    direct = active = 0
    try:
        for link in range(_MAX_LINKS):
            if pynvml.nvmlDeviceGetNvLinkState(handle, link) != pynvml.NVML_FEATURE_ENABLED:
                continue
            active += 1
            direct += same_bus(pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link).busId, bus)
    except pynvml.NVMLError as error:  # beyond the card's last link, or a card without any
        if error.value not in nvml.UNAVAILABLE:
            raise
    if direct:
        return [f"{direct} NVLinks between them"]
    return [f"{active} NVLinks, none of them straight to the other"] if active else ["no NVLink"]


def _cuda_libraries() -> Finding:
    """Whether all of CUDA's libraries are there, or the missing ones by name."""
    subject, build = "CUDA libraries", tf.sysconfig.get_build_info()
    if not build["is_cuda_build"]:
        text = f"this TensorFlow is built without CUDA: {CUDA_INSTALL}"
        return Finding(subject, "limited", text, "gpu")
    version = build["cuda_version"]
    if not version.startswith("12."):
        text = f"TensorFlow wants CUDA {version}, whose libraries are not known here"
        return Finding(subject, "limited", text, "gpu")
    wants = f"TensorFlow wants CUDA {version} and cuDNN {build['cudnn_version']}"
    missing = (*missing_libraries(), *missing_tools(cuda_folders(version)))
    if not missing:
        return Finding(subject, "ok", f"all there; {wants}", "gpu")
    packages = ", ".join(dict.fromkeys(CUDA_PACKAGES[name] for name in missing))
    text = f"missing: {', '.join(missing)}; {wants}. {CUDA_INSTALL} brings them ({packages})"
    return Finding(subject, "limited", text, "gpu")


def _seen(devices: Devices, cards: tuple[Card, ...]) -> Finding:
    """Whether TensorFlow computes on the GPUs, or why it does not."""
    subject, warnings = "GPUs that TensorFlow sees", gpu_warnings()
    found = ", ".join(devices.descriptions) if devices.device_type == "GPU" else "none"
    if devices.device_type == "GPU" and not warnings:
        return Finding(subject, "ok", found, "gpu")
    why = " ".join(warnings)
    if not cards:
        why = "NVML shows no GPU that answers"
    elif hides_all(os.environ):
        why = f"{VISIBLE} is {os.environ.get(VISIBLE)!r}, which hides all; unset it"
    return Finding(subject, "limited", f"{found}: {why}", "gpu")


def counters(parameters: Path) -> Finding:
    """Whether a profile may read the GPU's counters (CUPTI).

    Args:
        parameters: of the driver's kernel module, as it shows them under /proc.
    """
    subject = "CUPTI"
    try:
        lines = parameters.read_text().splitlines()
    except OSError as error:
        text = f"{parameters} cannot be read ({error.strerror}); if a profile shows no GPU, run as "
        return Finding(subject, "ok", text + "root", "profile")
    if "RmProfilingAdminOnly: 1" not in lines:
        return Finding(subject, "ok", "every user may profile", "profile")
    if _is_administrator():
        text = "administrators may profile, and this process is one"
        return Finding(subject, "ok", text, "profile")
    text = "only administrators may profile GPUs: run as root (in a container with --cap-add "
    text += "SYS_ADMIN), or load the module with NVreg_RestrictProfilingToAdminUsers=0"
    return Finding(subject, "limited", text, "profile")


def _is_administrator() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
