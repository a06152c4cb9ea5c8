"""What `auto` comes to: chosen, asked for, or as in the run that is resumed."""

from typing import Any

import pytest

from harness.commands.resolve import resolve
from harness.config import (
    IMPLEMENTATIONS,
    DataConfig,
    ExecutionConfig,
    SyntheticOptions,
    TrainConfig,
)
from harness.data.sources import Dataset, load_configured
from harness.engine.devices import Devices, set_up_devices
from harness.records import Choice

DATA = DataConfig(synthetic=SyntheticOptions(synthetic_rows=1000, synthetic_tokens=200))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """800 rows to train on."""
    return load_configured(DATA)


@pytest.fixture(scope="module")
def cpu(logical_devices: list[str]) -> Devices:
    return set_up_devices(1)


def settings(**execution: Any) -> TrainConfig:
    return TrainConfig(
        data=DATA,
        execution=ExecutionConfig(**{"implementation": "gather", "batch_size": 10} | execution),
    )


def test_everything_left_to_the_harness(dataset: Dataset, cpu: Devices) -> None:
    choices = resolve(settings(implementation="auto"), dataset, cpu)
    assert choices.precision.name == "float32"
    assert choices.implementation.name in IMPLEMENTATIONS
    assert choices.input.name == "resident"  # it takes next to none of the memory
    assert 1 <= choices.num_steps <= 80
    assert "asked" not in repr(choices)


@pytest.mark.parametrize(
    ("asked", "batch_size", "expected"),
    [
        ("auto", 10, Choice(name="20", why="hides the cost of a call, and Ctrl-C stays prompt")),
        ("auto", 40, Choice(name="20", why="a whole epoch")),
        ("auto", 300, Choice(name="3", why="a whole epoch")),
        (7, 10, Choice(name="7", why="asked for")),
        # A dispatch never spans epochs, and has room in memory for all its steps.
        (1_000_000, 10, Choice(name="80", why="a whole epoch; 1000000 asked for")),
    ],
)
def test_steps_per_dispatch(
    asked: Any, batch_size: int, expected: Choice, dataset: Dataset, cpu: Devices
) -> None:
    asking = settings(steps_per_dispatch=asked, batch_size=batch_size, input="stream")
    assert resolve(asking, dataset, cpu).steps_per_dispatch == expected


def test_a_resumed_run_takes_what_was_taken_before(dataset: Dataset, cpu: Devices) -> None:
    before = ExecutionConfig(
        precision="mixed_bfloat16", implementation="dense", input="stream", steps_per_dispatch=7
    )
    choices = resolve(settings(implementation="auto"), dataset, cpu, before=before)
    assert choices.precision == Choice(name="mixed_bfloat16", why="as in the run resumed")
    assert choices.implementation == Choice(name="dense", why="as in the run resumed")
    assert choices.num_steps == 7
    choices = resolve(settings(steps_per_dispatch=5), dataset, cpu, before=before)
    assert choices.implementation == Choice(name="gather", why="asked for")
    assert choices.num_steps == 5
