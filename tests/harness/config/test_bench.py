"""Settings of a benchmark that make no sense are refused before anything runs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.bench import BenchConfig, CompareConfig, GridConfig, parse_share
from harness.errors import InputError


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"batch_size": ()}, "--batch-size is empty"),
        ({"precision": ()}, "--precision is empty"),
        ({"batch_size": (500, 100, 500)}, "--batch-size names 500 more than once"),
        ({"replicas": ("auto", "auto")}, "--replicas names auto more than once"),
        ({"batch_size": (0,)}, "--batch-size is 0"),
        ({"steps_per_dispatch": (0,)}, "--steps-per-dispatch is 0"),
        ({"batch_size": (100, 101), "replicas": (1, 2)}, "batch size 101 with 2 replicas"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_a_nonsensical_grid(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GridConfig(**grid)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeats": 0}, "--repeats is 0"),
        ({"seconds": 0.0}, "--seconds is 0.0"),
        ({"seconds": float("nan")}, "--seconds is nan"),
        ({"seconds": float("inf")}, "--seconds is inf"),
        ({"steps": 0}, "--steps is 0"),
        ({"resume": True}, "--resume needs --bench-dir"),
        ({"resume": True, "overwrite": True, "bench_dir": "b"}, "exclude each other"),
        ({"against": "a", "against_set": ("b=1",)}, "exclude each other"),
        ({"against": "a", "steps": 3}, "--steps does not go with --against"),
        ({"against": "a", "repeats": 2}, "at least 3 pairs"),
        ({"fail_if_slower": "5%"}, "--fail-if-slower needs --against"),
        ({"against": "a", "fail_if_slower": "fast"}, "--fail-if-slower is 'fast'"),
        ({"against": "a", "diagnose": True}, "--diagnose does not go with --against"),
    ],
)
def test_settings_that_exclude_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchConfig(**settings)


@given(percent=st.integers(0, 99))
def test_shares(percent: int) -> None:
    assert parse_share("--x", f"{percent}%") == parse_share("--x", f"0.{percent:02}")


@pytest.mark.parametrize("text", ["", "%", "5 %%", "-5%", "100%", "1", "nan", "5%5", "0.05.0"])
def test_no_shares(text: str) -> None:
    with pytest.raises(InputError, match="--fail-if-slower is"):
        CompareConfig(baseline="a", candidate="b", fail_if_slower=text)
