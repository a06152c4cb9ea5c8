"""The rule behind `--precision auto`, case by case."""

import pytest

from harness.model.precision import choose_precision, needs_loss_scaling
from harness.settings import PRECISIONS


@pytest.mark.parametrize(
    ("device_type", "capability", "taken", "reason"),
    [
        ("CPU", None, "float32", "CPU"),
        ("GPU", None, "float32", "unknown"),
        ("GPU", (6, 1), "float32", "6.1"),
        ("GPU", (7, 0), "mixed_float16", "7.0"),
        ("GPU", (7, 5), "mixed_float16", "7.5"),
        ("GPU", (8, 0), "mixed_bfloat16", "8.0"),
        ("GPU", (9, 0), "mixed_bfloat16", "9.0"),
        ("GPU", (12, 0), "mixed_bfloat16", "12.0"),
    ],
)
def test_auto(
    device_type: str, capability: tuple[int, int] | None, taken: str, reason: str
) -> None:
    choice = choose_precision("auto", device_type=device_type, compute_capability=capability)
    assert choice.name == taken
    assert reason in choice.why


@pytest.mark.parametrize("requested", PRECISIONS)
@pytest.mark.parametrize(("device_type", "capability"), [("CPU", None), ("GPU", (6, 1))])
def test_what_is_asked_for_is_taken(
    requested: str, device_type: str, capability: tuple[int, int] | None
) -> None:
    choice = choose_precision(requested, device_type=device_type, compute_capability=capability)
    assert (choice.name, choice.why) == (requested, "asked for")


def test_only_float16_needs_its_loss_scaled() -> None:
    assert [name for name in PRECISIONS if needs_loss_scaling(name)] == ["mixed_float16"]
