"""The machine's GPUs as NVML knows them, by NVIDIA's binding nvidia-ml-py: those that CUDA shows,
their metrics, and NVML's errors in words."""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pynvml

VISIBLE = "CUDA_VISIBLE_DEVICES"
_REMEDIES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "; libnvidia-ml.so.1 comes with NVIDIA's driver, and in a "
    "container with NVIDIA's container toolkit",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "; load the kernel's module nvidia",
    pynvml.NVML_ERROR_GPU_IS_LOST: "; the kernel's log has the reason, a line with Xid",
    pynvml.NVML_ERROR_NO_PERMISSION: "; the device files /dev/nvidia* must be open to this user",
    # NVML's words for it end in a full stop.
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: " Its library and the kernel's module are of two "
    "drivers, as after an update; reboot",
}
# The errors of a query that this card, driver or user does not support.
UNAVAILABLE = (
    *(pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_INVALID_ARGUMENT),
    *(pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
    pynvml.NVML_ERROR_DEPRECATED,
)
Tell = Callable[[Literal["note", "warning"], str], None]  # tells the run's user
Read = Callable[[], Mapping[str, float]]  # a function that returns values by name
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


@dataclass(frozen=True, kw_only=True)
class Card:
    uuid: str
    bus: str  # PCI address, as in 00000000:17:00.0
    name: str
    compute_capability: tuple[int, int] | None = None  # None if NVML does not report it
    slices: tuple[str, ...] | None = None  # UUIDs of the GPUs into which MIG divides it
    handle: Any = field(default=None, compare=False)  # NVML's, valid while it stays open


@contextlib.contextmanager
def opened() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        # A driver that failed meanwhile was reported by the query that failed.
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def words(error: Any) -> str:
    return f"NVML says: {error}{_REMEDIES.get(error.value, '')}"


def answer(ask: Callable[..., Any], *arguments: Any) -> Any:
    """Returns what NVML answers; None if this card, driver or user does not support the query."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError as error:
        if error.value not in UNAVAILABLE:
            raise
        return None


def cards() -> tuple[list[Card], list[int]]:
    """Returns the GPUs that answer, by their PCI addresses, and the indices of others."""
    found, lost = [], []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError:
            lost.append(index)
        else:
            found.append(_card(handle))
    return found, lost


def _card(handle: Any) -> Card:
    capability = answer(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    mode = answer(pynvml.nvmlDeviceGetMigMode, handle)
    is_sliced = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    return Card(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        bus=pynvml.nvmlDeviceGetPciInfo(handle).busId,
        name=pynvml.nvmlDeviceGetName(handle),
        compute_capability=None if capability is None else tuple(capability),
        slices=tuple(map(pynvml.nvmlDeviceGetUUID, _slices(handle))) if is_sliced else None,
        handle=handle,
    )


def _slices(handle: Any) -> Iterator[Any]:
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        # Indices may have gaps, or be closed to this container.
        with contextlib.suppress(pynvml.NVMLError_NotFound, pynvml.NVMLError_NoPermission):
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)


def cards_and_driver() -> dict[str, Any]:
    """Returns the driver's version, the newest CUDA that it runs, and each GPU's name and memory in
    bytes; nothing on a machine without NVIDIA's driver."""
    try:
        with opened():
            found, _ = cards()
            return {
                "driver": pynvml.nvmlSystemGetDriverVersion(),
                "cuda": cuda_version(),
                "cards": [
                    {"name": card.name, "memory_bytes": getattr(memory, "total", None)}
                    for card in found
                    for memory in (answer(pynvml.nvmlDeviceGetMemoryInfo, card.handle),)
                ],
            }
    except pynvml.NVMLError:
        return {}


def cuda_version() -> str:
    """Returns the newest CUDA that the driver runs, as in 12.5."""
    cuda = pynvml.nvmlSystemGetCudaDriverVersion()  # 12050 for 12.5
    return f"{cuda // 1000}.{cuda % 1000 // 10}"


def same_bus(one: str, other: str) -> bool:
    """Returns whether PCI addresses agree: NVML writes eight digits of the domain, CUDA four."""
    return one.lower().zfill(16) == other.lower().zfill(16)


def hides_all(environment: Mapping[str, str]) -> bool:
    """Returns whether CUDA_VISIBLE_DEVICES hides every GPU, whatever the machine has."""
    return re.match(r"\s*(\d|GPU-|MIG-)", environment.get(VISIBLE, "0")) is None


def visible_cards(cards: Sequence[Card], environment: Mapping[str, str]) -> Sequence[Card]:
    """Returns the GPUs that CUDA shows a process by CUDA_VISIBLE_DEVICES, which NVML ignores: whole
    cards, or a single card in MIG mode with the one slice that CUDA shows. Numbers count in NVML's
    order, which is CUDA's among GPUs of one model and under CUDA_DEVICE_ORDER=PCI_BUS_ID. A UUID
    may be cut short. The first invalid name ends the list."""
    chosen = list(cards)
    if VISIBLE in environment:
        found = (_named(name.strip(), cards) for name in environment[VISIBLE].split(","))
        chosen = [card for (card,) in itertools.takewhile(lambda one: len(one) == 1, found)]
    for card in chosen:
        if card.slices:
            return [dataclasses.replace(card, slices=card.slices[:1])]
    return [card for card in chosen if card.slices is None]


def _named(name: str, cards: Sequence[Card]) -> Sequence[Card]:
    if name.isdecimal():
        return cards[int(name) :][:1]
    if name.startswith("MIG-"):
        slices = [(card, uuid) for card in cards for uuid in card.slices or ()]
        return [dataclasses.replace(c, slices=(u,)) for c, u in slices if u.startswith(name)]
    return [card for card in cards if name.startswith("GPU-") and card.uuid.startswith(name)]


@contextlib.contextmanager
def opened_gpus(tell: Tell, *, bus_ids: Sequence[str]) -> Iterator[Read]:
    """Opens NVML, unless there are no `bus_ids`; yields a reader of `gpu/<index>/*` for the GPUs at
    these PCI addresses, in TensorFlow's order."""
    gpus: list[_Gpu] = []
    with contextlib.ExitStack() as nvml:
        try:
            if bus_ids:
                nvml.enter_context(opened())
                known, _ = cards()
            for index, bus_id in enumerate(bus_ids):
                at_bus = [card for card in known if same_bus(card.bus, bus_id)]
                if at_bus and at_bus[0].slices is None:
                    gpus.append(_Gpu(index, at_bus[0], tell))
                else:
                    why = "is in MIG mode" if at_bus else "is not known to NVML"
                    tell("warning", f"the GPU at {bus_id} {why}: it is not sampled")
        except pynvml.NVMLError as error:
            tell("warning", f"no GPU is sampled, training continues. {words(error)}")
        yield lambda: {tag: value for gpu in gpus for tag, value in gpu.read().items()}


class _Gpu:
    """Reads one GPU again and again; drops each query that the GPU does not support."""

    def __init__(self, index: int, card: Card, tell: Tell) -> None:
        self._index, self._tell, self._handle = index, tell, card.handle
        self._queries = dict(_QUERIES)
        self._reported_errors: set[int] = set()
        self.read()
        name = f"GPU {index} ({card.name})"
        with contextlib.suppress(pynvml.NVMLError):  # as on old cards
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
            if len(processes) > 1:  # in a container their ids are the host's
                text = f"{name} is used by {len(processes)} processes: its metrics are of all"
                tell("warning", text)
        if unsupported := [metric for metric in _QUERIES if metric not in self._queries]:
            tell("note", f"{name} does not support these metrics: {', '.join(unsupported)}")

    def read(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for metric, ask in list(self._queries.items()):
            try:
                value = ask(self._handle)
            except pynvml.NVMLError as error:
                if error.value in UNAVAILABLE:
                    del self._queries[metric]
                elif error.value not in self._reported_errors:
                    # Once for all queries: a GPU that is lost answers none.
                    self._reported_errors.add(error.value)
                    text = f"GPU {self._index} failed to report {metric}, training continues. "
                    self._tell("warning", text + words(error))
            else:
                found[f"gpu/{self._index}/{metric}"] = float(value)
        return found
