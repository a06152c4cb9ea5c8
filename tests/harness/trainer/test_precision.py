"""The rule behind `--precision auto`, case by case."""

import pytest

from harness.trainer.choices import choose_precision


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
    choice = choose_precision(device_type, capability, rows=4096)
    assert choice.name == taken
    assert reason in choice.why
    assert choose_precision(device_type, capability, rows=500).name == "float32"
