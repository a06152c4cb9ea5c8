"""CUDA_VISIBLE_DEVICES in all its forms, against devices that were chosen first and named after."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.observe.visible import (
    Card,
    Device,
    devices_at,
    hides_all,
    same_bus,
    visible_devices,
)

UUIDS = st.uuids(version=4).map(str)


@st.composite
def machines(draw: st.DrawFn, *, sliced: bool = False) -> tuple[Card, ...]:
    names = draw(st.lists(UUIDS, min_size=1, max_size=8, unique=True))
    buses = draw(st.lists(st.integers(0, 255), min_size=len(names), max_size=8, unique=True))
    cards = []
    for name, bus in zip(names, sorted(buses), strict=False):
        in_slices = sliced and draw(st.booleans())
        parts = draw(st.lists(UUIDS, max_size=3, unique=True)) if in_slices else []
        cards.append(
            Card(
                uuid=f"GPU-{name}",
                bus=f"00000000:{bus:02X}:00.0",
                name="A100",
                is_sliced=in_slices,
                slices=tuple(f"MIG-{part}" for part in parts),
            )
        )
    return tuple(cards)


def visible(cards: tuple[Card, ...], value: str | None) -> list[int]:
    """Numbers of the whole cards that are visible."""
    environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    return [device.card for device in visible_devices(cards, environment)]


def shortest(name: str, others: list[str], least: int) -> str:
    """The shortest beginning, of at least so many letters, that none of the others has."""
    while any(other.startswith(name[:least]) for other in others):
        least += 1
    return name[:least]


@given(machines(), st.data())
def test_whole_gpus_by_any_name(cards: tuple[Card, ...], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(cards) - 1), unique=True, min_size=1))
    form = data.draw(st.sampled_from(["number", "uuid", "beginning"]))
    uuids = [card.uuid for card in cards]
    words = []
    for index in chosen:
        others = [other for other in uuids if other != uuids[index]]
        word = {
            "number": data.draw(st.sampled_from([f"{index}", f"+{index}", f"0{index}"])),
            "uuid": uuids[index],
            "beginning": shortest(uuids[index], others, data.draw(st.integers(5, 20))),
        }[form]
        spaces = st.sampled_from(["", " ", "  "])
        words.append(data.draw(spaces) + word + data.draw(spaces))
    value = ",".join(words)
    assert visible(cards, value) == chosen
    assert not hides_all({"CUDA_VISIBLE_DEVICES": value})
    # What is no name cuts the list there.
    place = data.draw(st.integers(0, len(words)))
    wrong = data.draw(
        st.sampled_from(["-1", "", "no", f"{len(cards)}", "MIG-1", f"GPU-{uuid.uuid4()}x"])
    )
    cut = [*words[:place], wrong, *words[place:]]
    if place > 0:
        assert visible(cards, ",".join(cut)) == chosen[:place]
    elif wrong != "MIG-1" and not wrong.startswith("GPU-"):
        assert visible(cards, ",".join(cut)) == []
    # A name twice, even in another spelling, and there is no device at all.
    assert visible(cards, ",".join([*words, words[0].strip()])) == []


@given(machines())
def test_without_the_variable_all_are_visible(cards: tuple[Card, ...]) -> None:
    assert visible(cards, None) == list(range(len(cards)))
    assert not hides_all({})


@pytest.mark.parametrize("value", ["", " ", "-1", "-1,0", "NoDevFiles", "none", ",0"])
@given(machines())
def test_none_is_visible(value: str, cards: tuple[Card, ...]) -> None:
    assert visible(cards, value) == []
    assert hides_all({"CUDA_VISIBLE_DEVICES": value})


@given(st.text("GPU-MI01,+ -", max_size=12), machines(sliced=True))
def test_what_hides_all_hides_all(value: str, cards: tuple[Card, ...]) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": value}
    if hides_all(environment):
        assert visible_devices(cards, environment) == ()


def test_an_ambiguous_beginning_is_no_name() -> None:
    cards = tuple(
        Card(uuid=f"GPU-abc{i}", bus=f"00000000:0{i}:00.0", name="A100") for i in range(3)
    )
    assert visible(cards, "GPU-abc1,GPU-abc") == [1]
    assert visible(cards, "GPU-abc") == []
    assert visible(cards, "GPU-abc2,0") == [2]
    assert visible(cards, "0,GPU-abc2") == [0]
    assert visible(cards, "1gpu,2") == [1, 2]


@given(machines(sliced=True), st.data())
def test_slices(cards: tuple[Card, ...], data: st.DataObject) -> None:
    slices = [Device(card=i, slice=j) for i, c in enumerate(cards) for j in range(len(c.slices))]
    plain = [Device(card=i) for i, c in enumerate(cards) if not c.is_sliced]
    # CUDA shows one slice and no whole GPU beside it.
    assert list(visible_devices(cards, {})) == (slices[:1] or plain)
    assert all(not cards[device.card].is_sliced for device in plain)
    if not slices:
        return
    one = data.draw(st.sampled_from(slices))
    assert one.slice is not None
    card = cards[one.card]
    part = card.slices[one.slice]
    others = [uuid for c in cards for uuid in c.slices if uuid != part]
    for name in (part, shortest(part, others, 9)):
        environment = {"CUDA_VISIBLE_DEVICES": name}
        assert visible_devices(cards, environment) == (one,)
        assert devices_at([card.bus], cards, environment) == (one,)
    # A card in slices, by its own name, is its first slice.
    by_card = visible_devices(cards, {"CUDA_VISIBLE_DEVICES": card.uuid})
    assert by_card == (Device(card=one.card, slice=0),)


@given(machines(), st.data())
def test_tensorflows_gpus_are_found_by_their_address(
    cards: tuple[Card, ...], data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(cards) - 1), unique=True, min_size=1))
    # As CUDA and TensorFlow write it: four digits of the domain, small letters.
    buses = [cards[index].bus[4:].lower() for index in chosen]
    assert devices_at([*buses, "0001:00:00.0"], cards, {}) == (
        *(Device(card=index) for index in chosen),
        None,
    )


def test_two_slices_of_a_card_are_two_devices() -> None:
    parts = tuple(f"MIG-{n}" for n in range(3))
    card = Card(uuid="GPU-a", bus="00000000:17:00.0", name="A100", is_sliced=True, slices=parts)
    shown = {"CUDA_VISIBLE_DEVICES": "MIG-2,MIG-0"}
    assert devices_at(["0000:17:00.0"] * 2, (card,), shown) == (
        Device(card=0, slice=2),
        Device(card=0, slice=0),
    )


def test_an_address_in_two_spellings() -> None:
    assert same_bus("00000000:AF:00.0", "0000:af:00.0")
    assert not same_bus("00000000:AF:00.0", "0001:AF:00.0")
    assert not same_bus("00000000:AF:00.0", "0000:FA:00.0")
    assert not same_bus("unknown", "unknown")
