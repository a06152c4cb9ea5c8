"""CUDA_VISIBLE_DEVICES in all its forms, against cards that were chosen first and named after."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from harness.run.telemetry.nvml import Card, hides_all, same_bus, visible_cards

UUIDS = st.uuids(version=4).map(str)


@st.composite
def machines(draw: st.DrawFn, *, sliced: bool = False) -> tuple[Card, ...]:
    cards = []
    for bus, uuid in enumerate(draw(st.lists(UUIDS, min_size=1, max_size=8, unique=True))):
        in_slices = sliced and draw(st.booleans())
        parts = draw(st.lists(UUIDS, max_size=3, unique=True)) if in_slices else []
        cards.append(
            Card(
                uuid=f"GPU-{uuid}",
                bus=f"00000000:{bus:02X}:00.0",
                name="A100",
                slices=tuple(f"MIG-{part}" for part in parts) if in_slices else None,
            )
        )
    return tuple(cards)


def visible(cards: tuple[Card, ...], value: str) -> list[Card]:
    return list(visible_cards(cards, {"CUDA_VISIBLE_DEVICES": value}))


def shortest(name: str, others: list[str], least: int) -> str:
    """Returns the shortest beginning, of at least `least` letters, that none of the others has."""
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
        words.append(
            {
                "number": f"{index}",
                "uuid": uuids[index],
                "beginning": shortest(uuids[index], others, data.draw(st.integers(5, 20))),
            }[form]
        )
    value = data.draw(st.sampled_from([",", " , "])).join(words)
    assert visible(cards, value) == [cards[index] for index in chosen]
    assert not hides_all({"CUDA_VISIBLE_DEVICES": value})
    # What is no name cuts the list there.
    place = data.draw(st.integers(0, len(words)))
    wrong = data.draw(st.sampled_from(["-1", "", "no", f"{len(cards)}", "MIG-1", "GPU-x"]))
    cut = ",".join([*words[:place], wrong, *words[place:]])
    assert visible(cards, cut) == [cards[index] for index in chosen[:place]]


@given(st.sampled_from(["", " ", "-1", "-1,0", "NoDevFiles", ",0"]), machines(sliced=True))
def test_none_is_visible(value: str, cards: tuple[Card, ...]) -> None:
    assert visible(cards, value) == []
    assert hides_all({"CUDA_VISIBLE_DEVICES": value})


def test_an_ambiguous_beginning_is_no_name() -> None:
    cards = tuple(
        Card(uuid=f"GPU-abc{i}", bus=f"00000000:0{i}:00.0", name="A100") for i in range(3)
    )
    assert visible(cards, "GPU-abc1,GPU-abc") == [cards[1]]
    assert visible(cards, "GPU-abc") == []


@given(machines(sliced=True), st.data())
def test_slices(cards: tuple[Card, ...], data: st.DataObject) -> None:
    plain = [card for card in cards if card.slices is None]
    slices = [
        dataclasses.replace(card, slices=(uuid,)) for card in cards for uuid in card.slices or ()
    ]
    # CUDA shows one slice and no whole GPU beside it.
    assert list(visible_cards(cards, {})) == (slices[:1] or plain)
    assert not hides_all({})
    if not slices:
        return
    one = data.draw(st.sampled_from(slices))
    others = [other.slices[0] for other in slices if other != one]
    for name in (one.slices[0], shortest(one.slices[0], others, 9)):
        assert visible(cards, name) == [one]
    # A card in slices, by its own name, is its first slice.
    assert visible(cards, one.uuid) == [next(s for s in slices if s.uuid == one.uuid)]


def test_an_address_in_two_spellings() -> None:
    assert same_bus("00000000:AF:00.0", "0000:af:00.0")
    assert not same_bus("00000000:AF:00.0", "0001:AF:00.0")
    assert not same_bus("00000000:AF:00.0", "0000:FA:00.0")
