"""The GPUs: driver, cards, slices, how they are connected, and whether TensorFlow sees them."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import TimeoutError
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pynvml

from harness.commands.doctor.cuda_libraries import cuda_libraries, cuda_version
from harness.commands.doctor.finding import Finding
from harness.engine.devices import Devices
from harness.telemetry import nvml
from harness.telemetry.visible import VISIBLE, Card, hides_all, same_bus, visible_devices

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
    """Every line about GPUs; one alone where the machine has no NVIDIA driver.

    Args:
        devices: what TensorFlow computes on.
        patience_seconds: a driver that answers no sooner hangs, and that is a finding too.
    """
    # A hanging call of the driver ends with its process alone; a pool's threads let it end.
    pool = ThreadPool(1)
    asked = pool.apply_async(lambda: tuple(_examine(devices)))
    pool.close()
    try:
        return asked.get(timeout=patience_seconds)
    except TimeoutError:
        text = f"does not answer within {patience_seconds:.0f} s; the kernel's log may have the "
        text += "reason, a line with Xid; reset the GPU or reboot"
        return (Finding(subject="NVIDIA driver", part="gpu", state="broken", text=text),)


def _examine(devices: Devices) -> Iterator[Finding]:
    try:
        with nvml.opened():
            yield _driver()
            cards = nvml.cards()
            yield from _cards(cards)
            yield from _slices(cards)
            yield from _topology(cards)
            cuda = _decode(pynvml.nvmlSystemGetCudaDriverVersion())
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND and devices.device_type == "CPU":
            text = f"none, runs compute on the CPU. {nvml.words(error)}"
            yield Finding(subject="GPU", part="gpu", state="limited", text=text)
        else:
            text = nvml.words(error)
            yield Finding(subject="NVIDIA driver", part="gpu", state="broken", text=text)
        return
    libraries = cuda_libraries()
    yield libraries
    yield _seen(devices, cards, libraries, cuda, os.environ)
    yield counters(DRIVER_PARAMETERS)


def _driver() -> Finding:
    driver, library = pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlSystemGetNVMLVersion()
    major, minor = _decode(pynvml.nvmlSystemGetCudaDriverVersion())
    text = f"{driver}, for CUDA up to {major}.{minor}; NVML {library}"
    return Finding(subject="NVIDIA driver", part="gpu", state="ok", text=text)


def _decode(version: int) -> tuple[int, int]:
    """CUDA's way to write a version: 12050 is 12.5."""
    return version // 1000, version % 1000 // 10


def _cards(cards: tuple[Card, ...]) -> Iterator[Finding]:
    for index, handle in enumerate(nvml.answering()):
        card = cards[index]
        words = [card.name, *_told(_memory, handle), *_told(_capability, handle)]
        text = ", ".join([*words, card.bus, card.uuid])
        yield Finding(subject=f"GPU {index}", part="gpu", state="ok", text=text)
    for index in nvml.lost():
        text = "does not answer; the kernel's log has the reason, a line with Xid; reset it or "
        text += "reboot"
        yield Finding(subject=f"NVML's GPU {index}", part="gpu", state="broken", text=text)


def _told(query: Callable[[Any], str], handle: Any) -> list[str]:
    """What a card tells, or nothing: in MIG mode some of it is for administrators."""
    try:
        return [query(handle)]
    except pynvml.NVMLError as error:
        if error.value not in nvml.UNAVAILABLE:
            raise
        return []


def _memory(handle: Any) -> str:
    return f"{pynvml.nvmlDeviceGetMemoryInfo(handle).total / 1e9:,.1f} GB"


def _capability(handle: Any) -> str:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return f"compute capability {major}.{minor}"


def _slices(cards: tuple[Card, ...]) -> Iterator[Finding]:
    for index, card in enumerate(cards):
        if not card.is_sliced:
            continue
        subject = f"MIG of GPU {index}"
        if card.slices:
            names = ", ".join(part.uuid for part in card.slices)
            text = f"{len(card.slices)} slices, of which a process sees one: {names}"
            yield Finding(subject=subject, part="gpu", state="ok", text=text)
        else:
            text = "on, without a slice: nothing can run there; make one (nvidia-smi mig -cgi), or "
            text += f"switch it off (nvidia-smi -i {index} -mig 0)"
            yield Finding(subject=subject, part="gpu", state="broken", text=text)


def _topology(cards: tuple[Card, ...]) -> Iterator[Finding]:
    handles = nvml.answering()
    for (i, one), (j, other) in itertools.combinations(enumerate(handles), 2):
        words = [*_links(one, cards[j].bus), *_path(one, other)]
        text = "; ".join(words) or "NVML does not tell how they are connected"
        yield Finding(subject=f"GPU {i} and {j}", state="ok", text=text)


def _path(one: Any, other: Any) -> list[str]:
    def words(handle: Any) -> str:
        level = pynvml.nvmlDeviceGetTopologyCommonAncestor(handle, other)
        return _PATHS.get(level, f"topology level {level}")

    return _told(words, one)


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


def _seen(
    devices: Devices,
    cards: tuple[Card, ...],
    libraries: Finding,
    cuda: tuple[int, int],
    environment: Mapping[str, str],
) -> Finding:
    """Whether TensorFlow computes on the GPUs, or why it does not."""
    subject = "GPUs that TensorFlow sees"
    if devices.device_type == "GPU":
        text = ", ".join(devices.descriptions)
        return Finding(subject=subject, part="gpu", state="ok", text=text)
    wanted = cuda_version()
    if not cards:
        why = "NVML shows no GPU that answers"
    elif hides_all(environment) or not visible_devices(cards, environment):
        why = f"{VISIBLE} is {environment.get(VISIBLE)!r}, which hides all; unset it"
    elif libraries.state != "ok":
        why = "of the CUDA libraries, see there"
    elif wanted is not None and cuda[0] < int(wanted.split(".")[0]):
        why = f"the driver is for CUDA up to {cuda[0]}.{cuda[1]}, and TensorFlow wants {wanted}; "
        why += "install a newer driver"
    else:
        why = "TensorFlow's log has the reason: TF_CPP_MIN_LOG_LEVEL=0 harness doctor"
    return Finding(subject=subject, part="gpu", state="limited", text=f"none: {why}")


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
        return Finding(subject=subject, part="profile", state="ok", text=text + "root")
    if "RmProfilingAdminOnly: 1" not in lines:
        return Finding(subject=subject, part="profile", state="ok", text="every user may profile")
    if _is_administrator():
        text = "administrators may profile, and this process is one"
        return Finding(subject=subject, part="profile", state="ok", text=text)
    text = "only administrators may profile GPUs: run as root (in a container with --cap-add "
    text += "SYS_ADMIN), or load the module with NVreg_RestrictProfilingToAdminUsers=0"
    return Finding(subject=subject, part="profile", state="limited", text=text)


def _is_administrator() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
