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


def test_it_grows_until_a_dispatch_lasts_as_long_as_it_should() -> None:
    steps = StepsPerDispatch(10, fixed=False, most=1000)
    lengths = []
    for _ in range(5):
        lengths.append(steps.num_steps)
        steps.on_window(window(steps.num_steps, steps.num_steps * 0.001))
    assert lengths == [10, 40, 160, 160, 160]
    steps.on_window(window(160, 0.05))  # the machine has become faster
    assert steps.num_steps == 640


def test_it_grows_no_further_than_to_an_epoch_and_by_whole_dispatches_alone() -> None:
    steps = StepsPerDispatch(100, fixed=False, most=150)
    steps.on_window(window(20, 0.001))  # the rest of an epoch says nothing
    assert steps.num_steps == 100
    steps.on_window(window(100, 0.001))
    assert steps.num_steps == 150
    steps.on_window(window(150, 0.001))
    assert steps.num_steps == 150


def test_it_does_not_grow_unless_it_is_told_how_far() -> None:
    steps = StepsPerDispatch(100, fixed=False)
    steps.on_window(window(100, 0.001))
    assert steps.num_steps == 100


def test_what_was_asked_for_stays() -> None:
    steps = StepsPerDispatch(80, fixed=True, most=1000)
    for seconds in (9.0, 0.001):
        steps.on_window(window(80, seconds))
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
