"""Which GPUs a process sees, by CUDA_VISIBLE_DEVICES: NVML itself knows nothing of it.

CUDA's documentation of its environment variables and NVIDIA's user guide for MIG give the rules.
What they leave open (spaces, signs, ambiguous or repeated names) is as PyTorch, which had to find
it out too, has it in torch/cuda/__init__.py.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A MIG device: a compute instance of a GPU, which CUDA shows as a GPU of its own."""

    uuid: str
    gpu_instance: int
    compute_instance: int


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU as NVML sees it."""

    uuid: str
    bus: str
    """PCI address, as in 00000000:17:00.0."""
    name: str
    is_sliced: bool = False
    """In MIG mode: it computes in its slices alone."""
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU as CUDA sees it: a card, or a slice of it."""

    card: int
    """Its place among NVML's cards."""
    slice: int | None = None
    """Its place among the card's slices."""


def hides_all(environment: Mapping[str, str]) -> bool:
    """Whether no GPU is visible, whatever the machine has: the variable begins with none."""
    first = environment.get(VISIBLE, "0").split(",")[0].strip()
    return not first.startswith(("GPU-", "MIG-")) and _ordinal(first) < 0


def visible_devices(cards: Sequence[Card], environment: Mapping[str, str]) -> tuple[Device, ...]:
    """The devices that CUDA shows a process, in CUDA's order as far as NVML's tells it.

    Args:
        cards: in NVML's order, that of their PCI addresses.
        environment: the process's.
    """
    devices = _admitted(cards, environment)
    # One slice at most, and no whole GPU beside it.
    return tuple(next(([d] for d in devices if d.slice is not None), devices))


def is_order_known(cards: Sequence[Card], environment: Mapping[str, str]) -> bool:
    """Whether CUDA counts GPUs as NVML does.

    It does under CUDA_DEVICE_ORDER=PCI_BUS_ID. By default the fastest comes first, by a rule that
    is not documented; among GPUs of one model that changes nothing.
    """
    by_number = not environment.get(VISIBLE, "0").strip().startswith(("GPU-", "MIG-"))
    alike = len({card.name for card in cards}) <= 1
    return environment.get(ORDER) == "PCI_BUS_ID" or alike or not by_number


def devices_at(
    bus_ids: Sequence[str], cards: Sequence[Card], environment: Mapping[str, str]
) -> tuple[Device | None, ...]:
    """The device at each PCI address, such as TensorFlow tells of its GPUs; None for an unknown.

    Of a card in slices it is the first that the process may use.
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
    """Whether two PCI addresses are one: NVML writes eight digits of the domain, CUDA four.

    What is none, as of devices that are on no such bus, is like no other.
    """
    address = _address(one)
    return address is not None and address == _address(other)


def _address(bus: str) -> tuple[int, ...] | None:
    match = re.fullmatch(r"([0-9a-f]+):([0-9a-f]+):([0-9a-f]+)\.([0-9a-f]+)", bus.lower())
    return None if match is None else tuple(int(part, 16) for part in match.groups())


def _admitted(cards: Sequence[Card], environment: Mapping[str, str]) -> list[Device]:
    """All that the variable lets through; of cards in slices every slice."""
    names = environment.get(VISIBLE)
    if names is None:
        chosen = [Device(card=index) for index in range(len(cards))]
    else:
        chosen = _named([name.strip() for name in names.split(",")], cards)
    return [device for one in chosen for device in _usable(one, cards)]


def _named(names: list[str], cards: Sequence[Card]) -> list[Device]:
    """What a list of names admits: up to the first that is none; nothing where one is repeated."""
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
    """The number that a name begins with, as C's strtol reads it; -1 where it begins with none."""
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
            for j, part in enumerate(card.slices)
            # Drivers before R470 name a slice by its card and instances.
            if part.uuid.startswith(name)
            or name == f"MIG-{card.uuid}/{part.gpu_instance}/{part.compute_instance}"
        ]
    return found[0] if len(found) == 1 else None


def _usable(device: Device, cards: Sequence[Card]) -> list[Device]:
    card = cards[device.card]
    if device.slice is not None or not card.is_sliced:
        return [device]
    return [Device(card=device.card, slice=index) for index in range(len(card.slices))]
