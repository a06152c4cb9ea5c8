"""The machine behind the figures: what it is, and what happened on it during a measurement."""

import contextlib
import functools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pynvml

from harness.observe import nvml
from harness.observe.gpu import gpus
from harness.observe.sampler import Sampler

_SLEPT_SECONDS = 0.05
_BUSY_SHARE = 0.05
"""Share of all cores' time that others used or the hypervisor withheld; more is marked."""
_GPU_HZ = 10.0


def load_average() -> float:
    """Runnable processes, averaged over the last minute."""
    return psutil.getloadavg()[0]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Clocks and counters at one moment, in seconds."""

    awake: float
    """Excludes the time in which the machine slept."""
    passed: float
    """Includes it."""
    others: float
    """CPU time of the processes that do not belong to the measurement."""
    stolen: float
    """CPU time that the hypervisor gave to other machines."""


def read(own: tuple[int, ...]) -> Reading:
    """Reads the clocks now.

    Args:
        own: ids of the processes that belong to the measurement besides this one.
    """
    cpu = psutil.cpu_times()
    idle = cpu.idle + getattr(cpu, "iowait", 0.0)
    stolen = getattr(cpu, "steal", 0.0)
    # user and nice already include the time of guests (proc(5)).
    guests = getattr(cpu, "guest", 0.0) + getattr(cpu, "guest_nice", 0.0)
    # CLOCK_MONOTONIC stops while Linux sleeps, CLOCK_BOOTTIME does not: clock_gettime(2).
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return Reading(
        awake=time.monotonic(),
        passed=time.monotonic() if boot is None else time.clock_gettime(boot),
        others=sum(cpu) - idle - stolen - guests - sum(map(_cpu_seconds, (os.getpid(), *own))),
        stolen=stolen,
    )


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0  # it ended, and its row says so
    return float(times.user + times.system)


def marks(before: Reading, after: Reading) -> tuple[str, ...]:
    """What happened between two readings that makes figures doubtful, with the evidence."""
    found = []
    slept = (after.passed - before.passed) - (after.awake - before.awake)
    if slept > _SLEPT_SECONDS:
        found.append(f"the machine slept for {slept:.1f} s")
    seconds = after.awake - before.awake
    cores = psutil.cpu_count() or 1
    for used, by in (
        (after.others - before.others, "other processes used"),
        (after.stolen - before.stolen, "the hypervisor withheld"),
    ):
        if used / seconds > _BUSY_SHARE * cores:
            found.append(f"busy: {by} {used / seconds:.1f} of {cores} cores")
    return tuple(found)


def describe_gpus() -> tuple[dict[str, Any], ...]:
    """Every GPU of the machine that answers: name, UUID, driver, memory, clocks, power limit."""
    with contextlib.ExitStack() as library:
        try:
            library.enter_context(nvml.opened())
        except pynvml.NVMLError:
            return ()  # without NVIDIA's driver there are none
        driver = pynvml.nvmlSystemGetDriverVersion()
        return tuple(_described(card, driver) for card in nvml.cards())


def _described(card: nvml.Card, driver: str) -> dict[str, Any]:
    handle = card.handle
    memory = nvml.answer(pynvml.nvmlDeviceGetMemoryInfo, handle)
    milliwatts = nvml.answer(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    clock, sm = pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM
    return {
        "name": card.name,
        "uuid": card.uuid,
        "driver": driver,
        "memory_bytes": memory and int(memory.total),
        "max_sm_clock_mhz": nvml.answer(pynvml.nvmlDeviceGetMaxClockInfo, handle, sm),
        "sm_clock_mhz": nvml.answer(clock, handle, sm),
        "memory_clock_mhz": nvml.answer(clock, handle, pynvml.NVML_CLOCK_MEM),
        "power_limit_watts": milliwatts and milliwatts / 1000,
    }


@contextlib.contextmanager
def gpu_utilization(pci_bus_ids: tuple[str, ...]) -> Iterator[list[float]]:
    """Samples the share of time in which the given GPUs run a kernel, during the block.

    Args:
        pci_bus_ids: as TensorFlow reports them; NVML may number the GPUs differently.

    Yields:
        A list that holds the percentages after the block; empty where no GPU reports them.
    """
    percents: list[float] = []
    if not pci_bus_ids:
        yield percents
        return
    sampler = Sampler(functools.partial(gpus, bus_ids=pci_bus_ids), hz=_GPU_HZ)
    sampler.start()
    try:
        yield percents
    finally:
        sampler.stop()
        for sample in sampler.take(math.inf):
            values = sample.values.items()
            percents += [v for tag, v in values if tag.endswith("/utilization_percent")]
