"""What NVIDIA's management library says of the GPUs, where there are any."""

import contextlib
import functools
import math
import statistics
from typing import Any

import pynvml

from harness.telemetry import nvml
from harness.telemetry.gpu_source import gpus
from harness.telemetry.sampler import Sampler

_HZ = 10.0
_STOP_SECONDS = 3.0


def describe() -> tuple[dict[str, Any], ...]:
    """Every GPU of the machine that answers: name, UUID, driver, memory and highest clocks."""
    with contextlib.ExitStack() as library:
        try:
            library.enter_context(nvml.opened())
        except pynvml.NVMLError:
            return ()  # without NVIDIA's driver there are none
        driver = pynvml.nvmlSystemGetDriverVersion()
        return tuple(_described(handle, driver) for handle in nvml.answering())


def _described(handle: Any, driver: str) -> dict[str, Any]:
    figures = {
        "memory_bytes": lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        "max_sm_clock_mhz": lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "sm_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "power_limit_watts": lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
    }
    found: dict[str, Any] = {
        "name": pynvml.nvmlDeviceGetName(handle),
        "uuid": pynvml.nvmlDeviceGetUUID(handle),
        "driver": driver,
    }
    for name, ask in figures.items():
        try:
            found[name] = ask()
        except pynvml.NVMLError_NotSupported:
            found[name] = None
    return found


class Utilization:
    """A context that samples the share of time in which a kernel ran on the given GPUs."""

    def __init__(self, pci_bus_ids: tuple[str, ...]) -> None:
        """`pci_bus_ids`: as TensorFlow tells them; NVML's numbers need not be TensorFlow's."""
        self._percents: list[float] = []
        # What the source tells is for a run's user: a measurement has its marks.
        source = functools.partial(gpus, bus_ids=pci_bus_ids)
        self._sampler = Sampler("GPUs", source, hz=_HZ) if pci_bus_ids else None

    def __enter__(self) -> "Utilization":
        if self._sampler is not None:
            self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._sampler is not None:
            self._sampler.stop(_STOP_SECONDS)
            self._percents = [
                value
                for sample in self._sampler.take(math.inf)
                for tag, value in sample.figures.items()
                if tag.endswith("/utilization_percent")
            ]

    @property
    def median_percent(self) -> float | None:
        """None where no GPU reports it."""
        return statistics.median(self._percents) if self._percents else None
