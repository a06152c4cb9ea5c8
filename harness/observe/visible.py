"""Which GPUs a process sees, by CUDA_VISIBLE_DEVICES, which NVML ignores.

The rules are in CUDA's documentation of its environment variables and in NVIDIA's user guide for
MIG. What these leave open (spaces, signs, ambiguous or repeated names) follows PyTorch's
torch/cuda/__init__.py.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU as NVML sees it."""

    uuid: str
    bus: str
    """PCI address, as in 00000000:17:00.0."""
    name: str
    compute_capability: tuple[int, int] | None = None
    """None where NVML does not report it."""
    is_sliced: bool = False
    """Whether it is in MIG mode: only its slices compute."""
    slices: tuple[str, ...] = ()
    """UUIDs of its MIG devices, each of which CUDA shows as a GPU of its own."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU as CUDA sees it: a card, or a slice of it."""

    card: int
    """Its place among NVML's cards."""
    slice: int | None = None
    """Its place among the card's slices."""


def hides_all(environment: Mapping[str, str]) -> bool:
    """Whether no GPU is visible, whatever the machine has."""
    first = environment.get(VISIBLE, "0").split(",")[0].strip()
    return not first.startswith(("GPU-", "MIG-")) and _ordinal(first) < 0


def visible_devices(cards: Sequence[Card], environment: Mapping[str, str]) -> tuple[Device, ...]:
    """The devices that CUDA shows a process.

    Those that are not named are in NVML's order, which is CUDA's under
    CUDA_DEVICE_ORDER=PCI_BUS_ID and among GPUs of one model.

    Args:
        cards: in NVML's order, that of their PCI addresses.
        environment: the process's.
    """
    devices = _admitted(cards, environment)
    # One slice at most, and no whole GPU beside it.
    return tuple(next(([d] for d in devices if d.slice is not None), devices))


def devices_at(
    bus_ids: Sequence[str], cards: Sequence[Card], environment: Mapping[str, str]
) -> tuple[Device | None, ...]:
    """The device at each PCI address, as TensorFlow reports them; None where there is none.

    For a card in MIG mode it is the first slice that the process may use.
    """
    admitted = _admitted(cards, environment)
    found: list[Device | None] = []
    for bus_id in bus_ids:
        card = next((i for i, c in enumerate(cards) if same_bus(c.bus, bus_id)), None)
        if card is None:
            found.append(None)
            continue
        there = [device for device in admitted if device.card == card]
        there = there or _usable(Device(card=card), cards) or [Device(card=card)]
        # Drivers to come may show several slices of a card.
        found.append(next((device for device in there if device not in found), there[0]))
    return tuple(found)


def same_bus(one: str, other: str) -> bool:
    """Whether two PCI addresses are the same: NVML writes eight digits of the domain, CUDA four.

    A text that is no address is the same as no other.
    """
    address = _address(one)
    return address is not None and address == _address(other)


def _address(bus: str) -> tuple[int, ...] | None:
    match = re.fullmatch(r"([0-9a-f]+):([0-9a-f]+):([0-9a-f]+)\.([0-9a-f]+)", bus.lower())
    return None if match is None else tuple(int(part, 16) for part in match.groups())


def _admitted(cards: Sequence[Card], environment: Mapping[str, str]) -> list[Device]:
    """All devices that the variable names; for a card in MIG mode all of its slices."""
    names = environment.get(VISIBLE)
    if names is None:
        chosen = [Device(card=index) for index in range(len(cards))]
    else:
        chosen = _named([name.strip() for name in names.split(",")], cards)
    return [device for one in chosen for device in _usable(one, cards)]


def _named(names: list[str], cards: Sequence[Card]) -> list[Device]:
    """The devices up to the first name that is invalid; none where one is repeated."""
    kind = next((prefix for prefix in ("GPU-", "MIG-") if names[0].startswith(prefix)), "")
    found: list[Device] = []
    for name in names:
        device = _by_uuid(name, kind, cards) if kind else _by_number(name, cards)
        if device is None:
            break
        if device in found:
            return []
        found.append(device)
    return found


def _by_number(name: str, cards: Sequence[Card]) -> Device | None:
    number = _ordinal(name)
    return Device(card=number) if 0 <= number < len(cards) else None


def _ordinal(name: str) -> int:
    """The number at the start of a name, as C's strtol reads it; -1 without one."""
    match = re.match(r"[+-]?[0-9]+", name)
    return int(match[0]) if match else -1


def _by_uuid(name: str, kind: str, cards: Sequence[Card]) -> Device | None:
    """The one device whose UUID begins with `name`; None where there is none, or several."""
    if not name.startswith(kind):
        return None
    if kind == "GPU-":
        found = [Device(card=i) for i, card in enumerate(cards) if card.uuid.startswith(name)]
    else:
        found = [
            Device(card=i, slice=j)
            for i, card in enumerate(cards)
            for j, uuid in enumerate(card.slices)
            if uuid.startswith(name)
        ]
    return found[0] if len(found) == 1 else None


def _usable(device: Device, cards: Sequence[Card]) -> list[Device]:
    card = cards[device.card]
    if device.slice is not None or not card.is_sliced:
        return [device]
    return [Device(card=device.card, slice=index) for index in range(len(card.slices))]
