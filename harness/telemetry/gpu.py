"""What is asked of a GPU at each sample, and what it does not tell.

NVML's utilization is itself a mean over a time that depends on the card, from a sixth of a second
to a second, and says for how much of it some kernel was running. Power is a mean over a second on
many cards, too.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml

from harness.telemetry import nvml
from harness.telemetry.join import COUNTERS
from harness.telemetry.visible import Card, Device

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
"""Why clocks are held down; an idle GPU's are by nature."""
_ALARMING = ("hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")


@dataclass(frozen=True, kw_only=True)
class Query:
    """One call of NVML and the figures that it gives, in order."""

    figures: tuple[str, ...]
    ask: Callable[[Any], tuple[float, ...]]
    of_slice: bool = False
    """Asked of a MIG slice itself; the rest is known of whole cards alone."""
    is_slow: bool = False
    """Takes tens of milliseconds."""


def _utilization(handle: Any) -> tuple[float, ...]:
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return rates.gpu, rates.memory


def _pcie(handle: Any) -> tuple[float, ...]:
    counters = (pynvml.NVML_PCIE_UTIL_RX_BYTES, pynvml.NVML_PCIE_UTIL_TX_BYTES)
    ask = functools.partial(pynvml.nvmlDeviceGetPcieThroughput, handle)
    return tuple(_BYTES_PER_KILOBYTE * ask(counter) for counter in counters)


def _clock_event_reasons(handle: Any) -> tuple[float, ...]:
    try:
        return (pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),)
    except pynvml.NVMLError_FunctionNotFound:  # drivers before R535 have it by its old name
        return (pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),)


def _ecc_errors(handle: Any) -> tuple[float, ...]:
    kinds = (
        pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
    )
    return tuple(
        pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, pynvml.NVML_VOLATILE_ECC) for kind in kinds
    )


def _clock(kind: int) -> Callable[[Any], tuple[float, ...]]:
    return lambda handle: (pynvml.nvmlDeviceGetClockInfo(handle, kind),)


_ENERGY = "energy_joules"
_UNCORRECTED = "ecc_uncorrected_errors"
_REASONS_FIGURE = "throttle_reasons"
# The slow one comes first, so that the others are as old as the time that the sample bears.
QUERIES = (
    Query(
        figures=("pcie_rx_bytes_per_second", "pcie_tx_bytes_per_second"), ask=_pcie, is_slow=True
    ),
    Query(
        figures=("utilization_percent", "memory_utilization_percent"),
        ask=_utilization,
        of_slice=True,
    ),
    Query(
        figures=("memory_used_bytes",),
        ask=lambda handle: (pynvml.nvmlDeviceGetMemoryInfo(handle).used,),
        of_slice=True,
    ),
    Query(
        figures=("power_watts",), ask=lambda handle: (pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,)
    ),
    Query(
        figures=(_ENERGY,),
        ask=lambda handle: (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3,),
    ),
    Query(
        figures=("temperature_celsius",),
        ask=lambda handle: (pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),),
    ),
    Query(figures=("sm_clock_mhz",), ask=_clock(pynvml.NVML_CLOCK_SM)),
    Query(figures=("memory_clock_mhz",), ask=_clock(pynvml.NVML_CLOCK_MEM)),
    Query(figures=(_REASONS_FIGURE,), ask=_clock_event_reasons),
    Query(figures=("ecc_corrected_errors", _UNCORRECTED), ask=_ecc_errors),
)


class LostError(Exception):
    """A GPU answers no more; the message says why."""


class GpuReader:
    """Reads one GPU, again and again.

    A query that the card does not support is not made again; what that leaves out stands in
    `left_out`. `energy_joules` counts from the first reading, by the card's counter or, where it
    has none, by its power (trapezoids between samples: `integrates_power`). A slice has none: its
    card's energy is that of all its slices.
    """

    def __init__(
        self, index: int, device: Device, cards: tuple[Card, ...], *, warn: Callable[[str], None]
    ) -> None:
        """`index`: of the tags; `warn`: told of what its user should know."""
        self.index = index
        self.left_out: list[str] = []
        self.name = cards[device.card].name
        self.is_slice = device.slice is not None
        self.handle, self._card_handle = nvml.handles(device, cards)
        self._warn = warn
        self._queries = [q for q in QUERIES if not (self.is_slice and q.figures == (_ENERGY,))]
        self._failed_before: set[Query] = set()
        self._first: dict[str, float] = {}
        self._reasons_seen: list[str] = []
        self._warned_of_ecc = False
        self._power: tuple[float, float] | None = None
        self._integrated_joules = 0.0

    @property
    def integrates_power(self) -> bool:
        """Whether its energy comes from samples of its power."""
        return (
            not self.is_slice and _ENERGY in self.left_out and ("power_watts" not in self.left_out)
        )

    def read(self, now: float, *, with_slow: bool) -> dict[str, float]:
        """The figures by name, at the time `now` in seconds.

        Args:
            now: by a clock that rises.
            with_slow: whether to make the slow queries too.

        Raises:
            LostError: when the GPU answers no more.
        """
        figures: dict[str, float] = {}
        for query in [q for q in self._queries if with_slow or not q.is_slow]:
            handle = self.handle if query.of_slice else self._card_handle
            try:
                figures |= zip(query.figures, map(float, query.ask(handle)), strict=True)
            except pynvml.NVMLError as error:
                self._on_error(query, error)
        self._since_start(figures)
        if self.integrates_power and "power_watts" in figures:
            figures[_ENERGY] = self._integrate(now, figures["power_watts"])
        if figures.get(_UNCORRECTED, 0.0) > 0 and not self._warned_of_ecc:
            self._warned_of_ecc = True
            self._warn(
                f"GPU {self.index} met errors in its memory that ECC could not correct "
                f"({figures[_UNCORRECTED]:.0f} since the start): results may be wrong"
            )
        if _REASONS_FIGURE in figures:
            figures |= self._reasons(int(figures.pop(_REASONS_FIGURE)))
        return figures

    def _on_error(self, query: Query, error: Any) -> None:
        if error.value in nvml.LOST:
            raise LostError(nvml.words(error)) from error
        if error.value in nvml.UNAVAILABLE:
            self._queries.remove(query)
            self.left_out += query.figures
        elif query not in self._failed_before:
            self._failed_before.add(query)
            self._warn(
                f"GPU {self.index} did not tell its {', '.join(query.figures)} this time "
                f"({nvml.words(error)}); samples in which it does not are left out"
            )

    def _since_start(self, figures: dict[str, float]) -> None:
        """Counters run since the driver was loaded: takes off what stood there at first."""
        for name in COUNTERS:
            if name in figures:
                figures[name] -= self._first.setdefault(name, figures[name])

    def _integrate(self, now: float, watts: float) -> float:
        if self._power is not None:
            before, watts_before = self._power
            self._integrated_joules += (now - before) * (watts + watts_before) / 2
        self._power = (now, watts)
        return self._integrated_joules

    def _reasons(self, bits: int) -> dict[str, float]:
        """1 for each reason that holds, 0 for one that held at an earlier sample."""
        for name, bit in _REASONS.items():
            if bits & bit and name not in self._reasons_seen:
                self._reasons_seen.append(name)
                if name in _ALARMING:
                    self._warn(
                        f"GPU {self.index} holds its clocks down ({name}): look at its cooling and "
                        "its power supply"
                    )
        return {
            f"throttle_{name}_fraction": float(bool(bits & _REASONS[name]))
            for name in self._reasons_seen
        }
