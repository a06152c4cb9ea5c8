"""Samples the GPUs through NVML, by NVIDIA's binding nvidia-ml-py. NVML's utilization is the share
of a period in which some kernel was running; the card decides on the period, from a sixth of a
second to a second. On many cards, power is a mean over a second."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pynvml

from harness.run.telemetry import nvml
from harness.run.telemetry.nvml import Card

Tell = Callable[[Literal["note", "warning"], str], None]  # tells the run's user
Read = Callable[[], Mapping[str, float]]  # a function that returns values by TensorBoard tag
# The queries to NVML, by the name of the metric that each returns.
_QUERIES: dict[str, Callable[[Any], float]] = {
    "utilization_percent": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "memory_utilization_percent": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).memory,
    "memory_used_bytes": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used,
    "power_watts": lambda gpu: 1e-3 * pynvml.nvmlDeviceGetPowerUsage(gpu),
    "temperature_celsius": lambda gpu: pynvml.nvmlDeviceGetTemperature(
        gpu, pynvml.NVML_TEMPERATURE_GPU
    ),
    "sm_clock_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
}
# The metrics that a MIG slice has of its own; the others are the whole card's.
_OF_A_SLICE = ("utilization_percent", "memory_utilization_percent", "memory_used_bytes")


@contextlib.contextmanager
def opened_gpus(tell: Tell, *, bus_ids: Sequence[str]) -> Iterator[Read]:
    """Opens NVML; yields a reader of `gpu/<index>/*` for every GPU in use: those at the PCI
    addresses `bus_ids`, in TensorFlow's order, or if it computes on the CPU, every GPU that CUDA
    would show."""
    gpus: list[_Gpu] = []
    with contextlib.ExitStack() as opened:
        try:
            if bus_ids or not nvml.hides_all(os.environ):
                opened.enter_context(nvml.opened())
                gpus = [_Gpu(index, card, tell) for index, card in _in_use(bus_ids, tell).items()]
        except pynvml.NVMLError as error:
            # Most CPU-only machines have no NVIDIA driver.
            if error.value != pynvml.NVML_ERROR_LIBRARY_NOT_FOUND or bus_ids:
                tell("warning", f"no GPU is sampled, training continues. {nvml.words(error)}")
        for gpu in gpus:
            gpu.introduce(in_use=bool(bus_ids))
        yield lambda: {tag: value for gpu in gpus for tag, value in gpu.read().items()}


def _in_use(bus_ids: Sequence[str], tell: Tell) -> dict[int, Card]:
    cards, lost = nvml.cards()
    visible = nvml.visible_cards(cards, os.environ)
    for index in lost:
        tell("warning", f"NVML's GPU {index} does not answer and is not sampled")
    if not bus_ids:
        if visible:
            text = "TensorFlow computes on the CPU; gpu/* are the GPUs that CUDA would show this "
            tell("note", f"{text}process")
        return dict(enumerate(visible))
    found = {}
    for index, bus_id in enumerate(bus_ids):
        # The visible ones come first, since they know their slice.
        at_bus = [card for card in (*visible, *cards) if nvml.same_bus(card.bus, bus_id)]
        if at_bus:
            found[index] = at_bus[0]
        else:
            text = f"NVML knows no GPU at {bus_id}, which TensorFlow uses: it is not sampled"
            tell("warning", text)
    return found


class _Gpu:
    """Reads one GPU again and again; drops each query that the GPU does not support."""

    def __init__(self, index: int, card: Card, tell: Tell) -> None:
        self._index = index
        self._name = f"GPU {index} ({card.name})"
        self._tell = tell
        self._card = self._slice = card.handle
        self._queries = dict(_QUERIES)
        if card.slices:
            self._slice = pynvml.nvmlDeviceGetHandleByUUID(card.slices[0].encode())
            del self._queries["power_watts"]  # that of all slices, so no run's energy
        self._reported_errors: set[int] = set()

    def read(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for metric, ask in list(self._queries.items()):
            try:
                value = ask(self._slice if metric in _OF_A_SLICE else self._card)
            except pynvml.NVMLError as error:
                if error.value in nvml.UNAVAILABLE:
                    del self._queries[metric]
                elif error.value not in self._reported_errors:
                    # Once for all queries: a GPU that is lost answers none.
                    self._reported_errors.add(error.value)
                    text = f"GPU {self._index} failed to report {metric}, training continues. "
                    self._tell("warning", text + nvml.words(error))
            else:
                found[f"gpu/{self._index}/{metric}"] = float(value)
        return found

    def introduce(self, *, in_use: bool) -> None:
        """Reads once; reports what is particular to this GPU."""
        self.read()
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
        if unsupported := [metric for metric in _QUERIES if metric not in self._queries]:
            text = f"{self._name} does not support these metrics: {', '.join(unsupported)}"
            self._tell("note", text)
        if self._slice is not self._card:
            text = "is a slice: temperature and clocks are the whole card's"
            self._tell("note", f"{self._name} {text}")
