"""The machine's GPUs as NVML knows them, those that CUDA shows, and NVML's errors in words."""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pynvml

VISIBLE = "CUDA_VISIBLE_DEVICES"
_REMEDIES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "; libnvidia-ml.so.1 comes with NVIDIA's driver, and in a "
    "container with NVIDIA's container toolkit",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "; load the kernel's module nvidia",
    pynvml.NVML_ERROR_GPU_IS_LOST: "; the kernel's log has the reason, a line with Xid",
    # NVML's words for it end in a full stop.
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: " Its library and the kernel's module are of two "
    "drivers, as after an update; reboot",
    pynvml.NVML_ERROR_NO_PERMISSION: "; the device files /dev/nvidia* must be open to this user",
}
# The errors of a query that this card, driver or user does not support.
UNAVAILABLE = (
    *(pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_INVALID_ARGUMENT),
    *(pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
    pynvml.NVML_ERROR_DEPRECATED,
)


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
    named = list(cards)
    if VISIBLE in environment:
        found = (_named(name.strip(), cards) for name in environment[VISIBLE].split(","))
        named = [card for (card,) in itertools.takewhile(lambda one: len(one) == 1, found)]
    devices = [device for card in named for device in _devices(card)]
    return next(([device] for device in devices if device.slices), devices)


def _named(name: str, cards: Sequence[Card]) -> Sequence[Card]:
    if name.isdecimal():
        return cards[int(name) :][:1]
    if name.startswith("MIG-"):
        slices = [device for card in cards for device in _devices(card) if device.slices]
        return [one for one in slices for uuid in one.slices or () if uuid.startswith(name)]
    return [card for card in cards if name.startswith("GPU-") and card.uuid.startswith(name)]


def _devices(card: Card) -> Sequence[Card]:
    """Returns the card; in MIG mode, a copy of it for each slice."""
    if card.slices is None:
        return [card]
    return [dataclasses.replace(card, slices=(uuid,)) for uuid in card.slices]
