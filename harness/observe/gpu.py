"""The GPUs, sampled through NVML.

NVML's utilization is a mean over a period that depends on the card, from a sixth of a second to a
second: the share of it in which some kernel was running. Power is a mean over a second on many
cards, too.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import pynvml

from harness.observe import nvml
from harness.observe.sampler import Read, Tell
from harness.observe.telemetry import COUNTERS
from harness.observe.visible import Card, Device, devices_at, visible_devices
from harness.records import Message

_BYTES_PER_KILOBYTE = 1000  # NVML gives KB/s and does not say which
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
"""Why clocks are throttled; an idle GPU's clocks are low without any of these."""
_ALARMING = ("hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")


@dataclass(frozen=True, kw_only=True)
class Query:
    """One question to NVML and the metrics that it answers, in order."""

    metrics: tuple[str, ...]
    ask: Callable[[Any], tuple[float, ...]]
    of_slice: bool = False
    """Whether a MIG slice answers it itself; if not, its card does."""
    is_slow: bool = False
    """Takes tens of milliseconds."""


def _utilization(handle: Any) -> tuple[float, ...]:
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return rates.gpu, rates.memory


def _pcie(handle: Any) -> tuple[float, ...]:
    counters = (pynvml.NVML_PCIE_UTIL_RX_BYTES, pynvml.NVML_PCIE_UTIL_TX_BYTES)
    ask = functools.partial(pynvml.nvmlDeviceGetPcieThroughput, handle)
    return tuple(_BYTES_PER_KILOBYTE * ask(counter) for counter in counters)


def _ecc_errors(handle: Any) -> tuple[float, ...]:
    kinds = (
        pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
    )
    return tuple(
        pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, pynvml.NVML_VOLATILE_ECC) for kind in kinds
    )


def _one(ask: Callable[..., float], *arguments: int, scale: float = 1) -> Any:
    """Asks for a single number."""
    return lambda handle: (ask(handle, *arguments) * scale,)


_ENERGY = "energy_joules"
_UNCORRECTED = "ecc_uncorrected_errors"
_REASON_BITS = "throttle_reasons"
# The slow one comes first, so that the others are as old as the sample's time says.
QUERIES = (
    Query(
        metrics=("pcie_rx_bytes_per_second", "pcie_tx_bytes_per_second"), ask=_pcie, is_slow=True
    ),
    Query(
        metrics=("utilization_percent", "memory_utilization_percent"),
        ask=_utilization,
        of_slice=True,
    ),
    Query(
        metrics=("memory_used_bytes",),
        ask=lambda handle: (pynvml.nvmlDeviceGetMemoryInfo(handle).used,),
        of_slice=True,
    ),
    Query(metrics=("power_watts",), ask=_one(pynvml.nvmlDeviceGetPowerUsage, scale=1e-3)),
    Query(metrics=(_ENERGY,), ask=_one(pynvml.nvmlDeviceGetTotalEnergyConsumption, scale=1e-3)),
    Query(
        metrics=("temperature_celsius",),
        ask=_one(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
    ),
    Query(metrics=("sm_clock_mhz",), ask=_one(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM)),
    Query(
        metrics=("memory_clock_mhz",),
        ask=_one(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_MEM),
    ),
    Query(metrics=(_REASON_BITS,), ask=_one(pynvml.nvmlDeviceGetCurrentClocksEventReasons)),
    Query(metrics=("ecc_corrected_errors", _UNCORRECTED), ask=_ecc_errors),
)


@contextlib.contextmanager
def gpus(
    tell: Tell, *, bus_ids: Sequence[str], environment: Mapping[str, str] = os.environ
) -> Iterator[Read]:
    """A source of `gpu/<index>/*` for every GPU in use.

    Args:
        tell: receives what is missing and why, failures, and other processes on the GPUs.
        bus_ids: PCI addresses of TensorFlow's GPUs, in its order. Empty where it computes on the
            CPU: then every GPU that CUDA would show this process is sampled.
        environment: has the CUDA_* variables.
    """

    def warn(text: str) -> None:
        tell(Message(kind="warning", text=text))

    readers: list[GpuReader] = []
    try:
        opened = contextlib.ExitStack()
        opened.enter_context(nvml.opened())
        for index in nvml.lost():
            warn(f"NVML's GPU {index} does not answer and is not sampled")
        cards = nvml.cards()
        devices = _devices(bus_ids, cards, environment, tell)
        readers = [
            GpuReader(index, device, cards, warn=warn)
            for index, device in enumerate(devices)
            if device is not None
        ]
    except pynvml.NVMLError as error:
        # Most CPU-only machines have no NVIDIA driver.
        if error.value != pynvml.NVML_ERROR_LIBRARY_NOT_FOUND or bus_ids:
            warn(f"no GPU is sampled, training continues. {nvml.words(error)}")
    with opened:
        yield _Gpus(readers, tell, in_use=bool(bus_ids)).read


def _devices(
    bus_ids: Sequence[str], cards: tuple[Card, ...], environment: Mapping[str, str], tell: Tell
) -> Sequence[Device | None]:
    """The devices to sample, by index; None for one that NVML does not know."""
    if bus_ids:
        found = devices_at(bus_ids, cards, environment)
        for bus_id, device in zip(bus_ids, found, strict=True):
            if device is None:
                text = f"NVML knows no GPU at {bus_id}, which TensorFlow uses: it is not sampled"
                tell(Message(kind="warning", text=text))
        return found
    visible = visible_devices(cards, environment)
    if visible:
        text = (
            "TensorFlow computes on the CPU; gpu/* are the GPUs that CUDA would show this process"
        )
        tell(Message(kind="note", text=text))
    return visible


class LostError(Exception):
    """A GPU no longer answers; the message says why."""


class GpuReader:
    """Reads one GPU, again and again.

    A query that the card does not support is dropped after the first reading, and its metrics are
    in `left_out`. Counters start at 0. A slice has no energy: its card's is that of all slices.
    """

    def __init__(
        self, index: int, device: Device, cards: tuple[Card, ...], *, warn: Callable[[str], None]
    ) -> None:
        """`index`: for messages and tags; `warn`: receives warnings."""
        self.index = index
        self.left_out: list[str] = []
        self.name = cards[device.card].name
        self.is_slice = device.slice is not None
        self.handle, self._card_handle = nvml.handles(device, cards)
        self._warn = warn
        self._queries = [q for q in QUERIES if not (self.is_slice and q.metrics == (_ENERGY,))]
        self._failed_before: set[Query] = set()
        self._first: dict[str, float] = {}
        self._reasons_seen: list[str] = []
        self._warned_of_ecc = False

    def read(self, *, with_slow: bool) -> dict[str, float]:
        """The metrics by name.

        Args:
            with_slow: whether to make the slow queries too.

        Raises:
            LostError: when the GPU no longer answers.
        """
        read: dict[str, float] = {}
        for query in [q for q in self._queries if with_slow or not q.is_slow]:
            handle = self.handle if query.of_slice else self._card_handle
            try:
                read |= zip(query.metrics, map(float, query.ask(handle)), strict=True)
            except pynvml.NVMLError as error:
                self._on_error(query, error)
        # The driver's counters run since it was loaded.
        for name in COUNTERS:
            if name in read:
                read[name] -= self._first.setdefault(name, read[name])
        if read.get(_UNCORRECTED, 0.0) > 0 and not self._warned_of_ecc:
            self._warned_of_ecc = True
            self._warn(
                f"GPU {self.index} had memory errors that ECC could not correct "
                f"({read[_UNCORRECTED]:.0f} since the start): results may be wrong"
            )
        if _REASON_BITS in read:
            read |= self._reasons(int(read.pop(_REASON_BITS)))
        return read

    def _on_error(self, query: Query, error: Any) -> None:
        if error.value in nvml.LOST:
            raise LostError(nvml.words(error)) from error
        if error.value in nvml.UNAVAILABLE:
            self._queries.remove(query)
            self.left_out += query.metrics
        elif query not in self._failed_before:
            self._failed_before.add(query)
            self._warn(
                f"GPU {self.index} failed to report {', '.join(query.metrics)} "
                f"({nvml.words(error)}); samples without them are skipped"
            )

    def _reasons(self, bits: int) -> dict[str, float]:
        """1 for each reason that holds, 0 for one that held at an earlier sample."""
        for name, bit in _REASONS.items():
            if bits & bit and name not in self._reasons_seen:
                self._reasons_seen.append(name)
                if name in _ALARMING:
                    self._warn(
                        f"GPU {self.index} throttles its clocks ({name}): check its cooling and "
                        "its power supply"
                    )
        return {
            f"throttle_{name}_fraction": float(bool(bits & _REASONS[name]))
            for name in self._reasons_seen
        }


class _Gpus:
    """Reads all GPUs, the slow queries on one GPU per reading, so that readings stay short."""

    def __init__(self, readers: list[GpuReader], tell: Tell, *, in_use: bool) -> None:
        self._in_use = in_use
        self._readers = readers
        self._tell = tell
        self._turn = -1  # the first reading asks everything, to know what is not supported

    def read(self) -> dict[str, float] | None:
        values: dict[str, float] = {}
        slow = self._turn % len(self._readers) if self._readers else 0
        for place, reader in enumerate(list(self._readers)):
            try:
                read = reader.read(with_slow=self._turn < 0 or place == slow)
            except LostError as error:
                text = f"GPU {reader.index} is no longer sampled, training continues. {error}"
                self._tell(Message(kind="warning", text=text))
                self._readers.remove(reader)
                continue
            values |= {f"gpu/{reader.index}/{name}": value for name, value in read.items()}
            if self._turn < 0:
                self._introduce(reader)
        self._turn += 1
        return values if self._readers else None

    def _introduce(self, reader: GpuReader) -> None:
        """Reports once what is particular to a GPU."""
        name = f"GPU {reader.index} ({reader.name})"
        try:
            others = other_processes(reader.handle, in_use=self._in_use)
        except pynvml.NVMLError:
            reader.left_out.append("processes")
            others = []
        if others:
            text = f"{name} is also used by {', '.join(others)}: its metrics include them"
            self._tell(Message(kind="warning", text=text))
        if reader.left_out:
            text = f"{name} does not support these metrics: {', '.join(reader.left_out)}"
            self._tell(Message(kind="note", text=text))
        if reader.is_slice:
            text = (
                f"{name} is a slice: power, temperature, clocks, PCIe traffic and ECC errors are "
                "those of the whole card; its energy is not known"
            )
            self._tell(Message(kind="note", text=text))


def other_processes(handle: Any, *, in_use: bool) -> list[str]:
    """The other processes that compute on a GPU, one text for each.

    NVML gives the host's process ids. Inside a container the other processes have no name, and this
    process cannot be told apart from them: where it uses the GPU (`in_use`), one of them is it.

    Raises:
        pynvml.NVMLError: when NVML does not list processes.
    """
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    known = any(process.pid == os.getpid() for process in processes)
    others, nameless = [], []
    for process in processes:
        if process.pid == os.getpid():
            continue
        held = "" if process.usedGpuMemory is None else f", {process.usedGpuMemory / 1e9:.1f} GB"
        try:
            name = psutil.Process(process.pid).name()
            others.append(f"process {process.pid} ({name}{held})")
        except psutil.Error:
            nameless.append(f"process {process.pid} (not visible from here{held})")
    if nameless and in_use and not known:
        nameless.pop()
        nameless = [f"{text}, or this run" for text in nameless]
    return others + nameless
