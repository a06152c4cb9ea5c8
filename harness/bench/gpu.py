"""What NVIDIA's management library says of the GPUs, where there are any."""

import contextlib
import statistics
import threading
from collections.abc import Iterator
from typing import Any

import pynvml

_INTERVAL_SECONDS = 0.1


@contextlib.contextmanager
def _library() -> Iterator[bool]:
    """Yields whether the library can be asked: it comes with NVIDIA's driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        pynvml.nvmlShutdown()


def describe() -> tuple[dict[str, Any], ...]:
    """Every GPU of the machine: name, UUID, driver, memory and highest clocks."""
    with _library() as present:
        if not present:
            return ()
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return tuple(_described(handle, driver) for handle in handles)


def _described(handle: Any, driver: str) -> dict[str, Any]:
    figures = {
        "memory_bytes": lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        "max_sm_clock_mhz": lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "sm_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "power_limit_watts": lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
    }
    found: dict[str, Any] = {
        "name": _text(pynvml.nvmlDeviceGetName(handle)),
        "uuid": _text(pynvml.nvmlDeviceGetUUID(handle)),
        "driver": driver,
    }
    for name, ask in figures.items():
        try:
            found[name] = ask()
        except pynvml.NVMLError_NotSupported:
            found[name] = None
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Utilization:
    """A context that samples the share of time in which a kernel ran on the given GPUs."""

    def __init__(self, pci_bus_ids: tuple[str, ...]) -> None:
        """`pci_bus_ids`: as TensorFlow tells them; NVML's numbers need not be TensorFlow's."""
        self._pci_bus_ids = pci_bus_ids
        self._samples: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Utilization":
        if self._pci_bus_ids:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._pci_bus_ids:
            self._thread.join()

    @property
    def median_percent(self) -> float | None:
        """None where no GPU reports it."""
        return float(statistics.median(self._samples)) if self._samples else None

    def _sample(self) -> None:
        with _library() as present:
            if not present:
                return
            try:
                handles = [
                    pynvml.nvmlDeviceGetHandleByPciBusId(i.encode()) for i in self._pci_bus_ids
                ]
            except pynvml.NVMLError:
                return  # not a device that NVML knows by its bus
            while not self._stop.wait(_INTERVAL_SECONDS):
                for handle in handles:
                    try:
                        self._samples.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
                    except pynvml.NVMLError:
                        return  # a slice of a GPU (MIG) has no such figure; a lost GPU neither
