"""Samples the GPUs through NVML.

NVML's utilization is the share of a period in which some kernel was running; the card decides on
the period, from a sixth of a second to a second. On many cards, power is a mean over a second.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pynvml

from harness.run.observers import nvml
from harness.run.observers.nvml import Card
from harness.run.observers.sampler import Read, Tell

COUNTERS = ("energy_joules", "ecc_corrected_errors", "ecc_uncorrected_errors")
"""The values that only rise, by the last part of their tags. They count from the first sample."""

_REASONS = {
    "applications_clocks": pynvml.nvmlClocksEventReasonApplicationsClocksSetting,
    "sw_power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "hw_slowdown": pynvml.nvmlClocksEventReasonHwSlowdown,
    "sync_boost": pynvml.nvmlClocksEventReasonSyncBoost,
    "sw_thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "hw_thermal": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "hw_power_brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    "display_clock": pynvml.nvmlClocksEventReasonDisplayClockSetting,
}
"""The reasons for throttled clocks; an idle GPU's clocks are low without any of these."""
_ALARMING = ("hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")


def _pcie(handle: Any) -> list[float]:
    counters = (pynvml.NVML_PCIE_UTIL_RX_BYTES, pynvml.NVML_PCIE_UTIL_TX_BYTES)
    # NVML gives KB/s and does not say which KB.
    return [1000 * pynvml.nvmlDeviceGetPcieThroughput(handle, counter) for counter in counters]


def _utilization(handle: Any) -> list[float]:
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return [rates.gpu, rates.memory]


def _ecc_errors(handle: Any) -> list[float]:
    kinds = (pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED)
    counter = pynvml.NVML_VOLATILE_ECC
    return [pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, counter) for kind in kinds]


_PCIE = ("pcie_rx_bytes_per_second", "pcie_tx_bytes_per_second")
_UTILIZATION = ("utilization_percent", "memory_utilization_percent")
_MEMORY = ("memory_used_bytes",)
_ENERGY = ("energy_joules",)
# PCIe comes first, so that the others are as old as the sample's time says: it takes 20 ms a value.
_QUERIES: dict[tuple[str, ...], Callable[[Any], Sequence[float]]] = {
    _PCIE: _pcie,
    _UTILIZATION: _utilization,
    _MEMORY: lambda gpu: [pynvml.nvmlDeviceGetMemoryInfo(gpu).used],
    ("power_watts",): lambda gpu: [1e-3 * pynvml.nvmlDeviceGetPowerUsage(gpu)],
    _ENERGY: lambda gpu: [1e-3 * pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)],
    ("temperature_celsius",): lambda gpu: [
        pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU)
    ],
    ("sm_clock_mhz",): lambda gpu: [pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM)],
    ("memory_clock_mhz",): lambda gpu: [pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM)],
    ("throttle_reasons",): lambda gpu: [pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)],
    ("ecc_corrected_errors", "ecc_uncorrected_errors"): _ecc_errors,
}
"""The queries to NVML, by the metrics that each returns."""


@contextlib.contextmanager
def gpus(tell: Tell, *, bus_ids: Sequence[str]) -> Iterator[Read]:
    """Opens a source of `gpu/<index>/*` for every GPU in use.

    Args:
        tell: receives messages on missing metrics, failures, and other processes on the GPUs.
        bus_ids: PCI addresses of TensorFlow's GPUs, in its order. If TensorFlow computes on the
            CPU it is empty, and every GPU that CUDA would show this process is sampled.
    """
    readers: list[_Gpu] = []
    with contextlib.ExitStack() as opened:
        try:
            if bus_ids or not nvml.hides_all(os.environ):
                opened.enter_context(nvml.opened())
                readers = _readers(bus_ids, tell)
        except pynvml.NVMLError as error:
            # Most CPU-only machines have no NVIDIA driver.
            if error.value != pynvml.NVML_ERROR_LIBRARY_NOT_FOUND or bus_ids:
                tell("warning", f"no GPU is sampled, training continues. {nvml.words(error)}")
        yield _read_all(readers, in_use=bool(bus_ids))


def _readers(bus_ids: Sequence[str], tell: Tell) -> "list[_Gpu]":
    for index in nvml.lost():
        tell("warning", f"NVML's GPU {index} does not answer and is not sampled")
    cards = nvml.cards()
    visible = nvml.visible_cards(cards, os.environ)
    if not bus_ids:
        if visible:
            text = "TensorFlow computes on the CPU; gpu/* are the GPUs that CUDA would show this "
            tell("note", f"{text}process")
        return [_Gpu(index, card, tell) for index, card in enumerate(visible)]
    readers = []
    for index, bus_id in enumerate(bus_ids):
        # The visible ones come first, since they know their slice.
        found = [card for card in (*visible, *cards) if nvml.same_bus(card.bus, bus_id)]
        if found:
            readers.append(_Gpu(index, found[0], tell))
        else:
            text = f"NVML knows no GPU at {bus_id}, which TensorFlow uses: it is not sampled"
            tell("warning", text)
    return readers


class _Gpu:
    """Reads one GPU again and again; drops each query that the GPU does not support."""

    def __init__(self, index: int, card: Card, tell: Tell) -> None:
        """`index` is the GPU's number in messages and tags."""
        self.index = index
        self._name = f"GPU {index} ({card.name})"
        self._tell = tell
        self._card = self._slice = card.handle
        self._queries = dict(_QUERIES)
        if card.slices:
            self._slice = pynvml.nvmlDeviceGetHandleByUUID(card.slices[0].encode())
            del self._queries[_ENERGY]  # the card counts the energy of all slices
        self._first: dict[str, float] = {}
        self._reasons_seen: list[str] = []
        self._warned_of: set[object] = set()

    def read(self, *, with_pcie: bool) -> dict[str, float]:
        """Returns the metrics by name, without those that NVML fails to report."""
        read: dict[str, float] = {}
        for metrics, ask in list(self._queries.items()):
            if metrics == _PCIE and not with_pcie:
                continue
            handle = self._slice if metrics in (_UTILIZATION, _MEMORY) else self._card
            try:
                read |= zip(metrics, map(float, ask(handle)), strict=True)
            except pynvml.NVMLError as error:
                if error.value in nvml.UNAVAILABLE:
                    del self._queries[metrics]
                else:  # once for all queries: a GPU that is lost answers none
                    text = f"failed to report {', '.join(metrics)}, training continues. "
                    self._warn_once(error.value, text + nvml.words(error))
        for name in COUNTERS:
            if name in read:
                read[name] -= self._first.setdefault(name, read[name])
        if uncorrected := read.get("ecc_uncorrected_errors"):
            self._warn_once(
                "ecc",
                f"had memory errors that ECC could not correct ({uncorrected:.0f} since the "
                "start): results may be wrong",
            )
        reasons = int(read.pop("throttle_reasons", 0))
        return read | self._reasons(reasons)

    def _reasons(self, bits: int) -> dict[str, float]:
        """Returns 1 for each reason that holds, 0 for each that only held at an earlier sample."""
        holding = [name for name, bit in _REASONS.items() if bits & bit]
        self._reasons_seen += [name for name in holding if name not in self._reasons_seen]
        for name in holding:
            if name in _ALARMING:
                text = f"throttles its clocks ({name}): check its cooling and its power supply"
                self._warn_once(name, text)
        return {f"throttle_{name}_fraction": float(name in holding) for name in self._reasons_seen}

    def _warn_once(self, cause: object, text: str) -> None:
        if cause not in self._warned_of:
            self._warned_of.add(cause)
            self._tell("warning", f"GPU {self.index} {text}")

    def introduce(self, *, in_use: bool) -> None:
        """Reports, after the first reading, what is particular to this GPU."""
        processes = []
        with contextlib.suppress(pynvml.NVMLError):  # as on old cards
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(self._slice)
        others = {process.pid for process in processes} - {os.getpid()}
        # In a container NVML's process ids are the host's: one of them is this run's.
        one_is_self = in_use and len(others) == len(processes)
        if len(others) > one_is_self:
            ids = ", ".join(map(str, sorted(others)))
            ids += "; one of them is this run" if one_is_self else ""
            text = f"{self._name} is also used by other processes ({ids}): its metrics include them"
            self._tell("warning", text)
        left_out = [name for query in _QUERIES if query not in self._queries for name in query]
        if left_out:
            text = f"{self._name} does not support these metrics: {', '.join(left_out)}"
            self._tell("note", text)
        if self._slice is not self._card:
            text = "power, temperature, clocks, PCIe traffic and ECC errors are the whole card's"
            self._tell("note", f"{self._name} is a slice: {text}")


def _read_all(gpus: Sequence[_Gpu], *, in_use: bool) -> Read:
    """Returns a reader of all GPUs, which reads the PCIe traffic of one GPU at a time, so that each
    reading stays short."""
    turns = itertools.count(-1)  # the first reading asks everything, to learn what is unsupported

    def read() -> dict[str, float]:
        turn = next(turns)
        values: dict[str, float] = {}
        for place, gpu in enumerate(gpus):
            read = gpu.read(with_pcie=turn < 0 or place == turn % len(gpus))
            values |= {f"gpu/{gpu.index}/{name}": value for name, value in read.items()}
            if turn < 0:
                gpu.introduce(in_use=in_use)
        return values

    return read
