"""How many steps a dispatch holds."""

import pytest

from harness.pipeline.cadence import StepsPerDispatch, estimated_steps
from harness.records import Window


def window(num_steps: int, seconds: float) -> Window:
    return Window(
        step=num_steps,
        epoch=0,
        num_steps=num_steps,
        examples=1,
        tokens=1,
        seconds=seconds,
        data_wait_seconds=0.0,
        loss=0.0,
        accuracy=0.0,
    )


def test_it_halves_what_took_too_long_and_nothing_else() -> None:
    steps = StepsPerDispatch(80, fixed=False)
    steps.on_window(window(80, 0.4))
    assert steps.num_steps == 80
    steps.on_window(window(80, 0.6))
    assert steps.num_steps == 40
    steps.on_window(window(1, 9.0))
    assert steps.num_steps == 1


def test_what_was_asked_for_stays() -> None:
    steps = StepsPerDispatch(80, fixed=True)
    steps.on_window(window(80, 9.0))
    assert steps.num_steps == 80


@pytest.mark.parametrize("implementation", ["native", "gather", "dense"])
def test_larger_batches_get_fewer_steps_and_at_least_one(implementation: str) -> None:
    numbers = [
        estimated_steps(
            tokens_per_step=tokens, rows=8, hidden_units=(50, 50), implementation=implementation
        )
        for tokens in (1e3, 1e5, 1e7, 1e10)
    ]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] == 1


def test_wide_layers_get_fewer_steps() -> None:
    narrow, wide = (
        estimated_steps(
            tokens_per_step=65_000, rows=500, hidden_units=units, implementation="native"
        )
        for units in ((50, 50, 50), (50, 2048, 2048))
    )
    assert narrow > 10 * wide
