"""The choices of settings: by `auto`, as asked for, or as in the run that is resumed."""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

import harness
from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.feed.batch import Columns
from harness.model.layers import MultiHotDense
from harness.model.network import DefaultNetwork, build_model
from harness.program.devices import Devices, set_up_devices
from harness.run.records import Choice
from harness.trainer.choices import Known, settings_before, settle
from harness.trainer.settings import Settings
from kernels.multi_hot.native.build import find_compiler
from tests.harness.random_sets import random_sets

GPU = Devices(
    names=("/GPU:0",),
    num_replicas=1,
    device_type="GPU",
    descriptions=("/GPU:0",),
    memory_bytes=2**36,
)
AS_BEFORE = "as in the run resumed"


@pytest.fixture(scope="module")
def rows() -> Examples:
    return Examples.of(random_sets(np.random.default_rng(), rows=800, num_tokens=200))


@pytest.fixture(scope="module")
def cpu(logical_devices: list[str]) -> Devices:
    return set_up_devices(1)


def known(
    rows: Examples, devices: Devices, *, hidden_units: tuple[int, ...] = (8, 8), **settings: Any
) -> Known:
    """Returns what is known, with a model, and with the implementation that the steps of a call
    depend on."""
    given = {"batch_size": 10, **settings}
    return Known(
        settings=Settings(**given),
        devices=devices,
        train=rows,
        resident_bytes=Columns.of(rows).num_bytes,
        model=build_model(
            DefaultNetwork(
                hidden_units=hidden_units, dropout=(0.0, 0.0), num_tokens=200, num_classes=2
            ),
            rows,
            dtype="float32",
            device="/CPU:0",
            seed=0,
        ),
        left_bytes=2**36,
        chosen={"implementation": Choice(name="gather", why="asked for")},
    )


def test_rows_that_take_much_of_the_memory_are_streamed(rows: Examples, cpu: Devices) -> None:
    small = replace(cpu, memory_bytes=4_000)
    for taken, kind in [(1_000, "resident"), (1_001, "stream")]:
        choice = settle("input", replace(known(rows, small), resident_bytes=taken))
        assert choice.name == kind
        assert "25.0%" in choice.why
    choice = settle("input", replace(known(rows, cpu), resident_bytes=1_001, left_bytes=1_000))
    assert choice.name == "stream"


@pytest.mark.parametrize(
    ("asked", "batch_size", "expected"),
    [("auto", 10, 80), ("auto", 300, 3), (7, 10, 7), (81, 10, 80)],
)
def test_steps_per_dispatch(
    asked: Any, batch_size: int, expected: int, rows: Examples, cpu: Devices
) -> None:
    """A dispatch never spans epochs, and has room in memory for all its steps."""
    asking = known(rows, cpu, steps_per_dispatch=asked, batch_size=batch_size)
    choice = settle("steps_per_dispatch", asking)
    assert choice.name == str(expected)
    assert (asked == "auto") or (str(asked) in choice.why) or (choice.why == "asked for")


def test_native_of_a_run_begun_on_a_cpu_is_chosen_anew_on_a_gpu(rows: Examples) -> None:
    before = Settings(implementation="native")
    # Deterministic: with no GPU at hand nothing can be measured on one.
    anew = replace(known(rows, GPU, deterministic=True), before=before)
    choice = settle("implementation", anew)
    assert choice.name in ("dense", "gather")
    assert choice.why != AS_BEFORE
    with pytest.raises(InputError, match=r"the CUDA kernels need a GPU.*set --implementation=auto"):
        settle("implementation", known(rows, GPU, implementation="native"))


def test_an_implementation_that_a_layer_names_must_run_there(rows: Examples) -> None:
    layer = MultiHotDense(3, 200, implementation="native")
    asking = replace(
        known(rows, GPU), model=build_model(layer, rows, dtype="float32", device="/CPU:0", seed=0)
    )
    with pytest.raises(InputError, match="--implementation=native cannot be had on /GPU:0"):
        settle("implementation", asking)


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
def test_a_batch_that_touches_few_rows_of_a_table_gets_native() -> None:
    """The product alone may be faster with `dense`, after which all rows are updated."""
    rows = random_sets(np.random.default_rng(0), rows=80, num_tokens=4_000)
    network = keras.Sequential([MultiHotDense(20, 4_000), keras.layers.Dense(1)])
    trainer = harness.Trainer(network, batch_size=1)
    trainer.fit(rows, epochs=1, verbose=False)
    assert trainer.last is not None
    choices = trainer.last.start.choices
    assert choices["implementation"].name == "native"
    assert "after dense, all 4,000 rows" in choices["implementation"].why
    assert choices["table_optimizer"].name == "exact_adam"


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("precision", "mixed_bfloat16"),
        ("implementation", "dense"),
        ("input", "stream"),
        ("steps_per_dispatch", 7),
    ],
)
def test_a_resumed_run_takes_what_was_taken_before(
    name: str, before: Any, rows: Examples, cpu: Devices
) -> None:
    resumed = replace(known(rows, cpu), before=Settings(**{name: before}))
    assert settle(name, resumed) == Choice(name=str(before), why=AS_BEFORE)
    other = {"precision": "float32", "implementation": "gather", "input": "resident"}.get(name, 5)
    asking = replace(resumed, settings=replace(resumed.settings, **{name: other}))
    assert settle(name, asking) == Choice(name=str(other), why="asked for")


def test_on_another_kind_of_device_what_only_changes_the_speed_is_chosen_anew(
    rows: Examples, cpu: Devices
) -> None:
    recorded = {"implementation": "dense", "steps_per_dispatch": 7, "precision": "float32"}
    for kind, is_anew in (("CPU", False), ("", False), ("GPU", True)):
        before = settings_before({**recorded, "device_type": kind}, cpu.device_type)
        assert before.precision == "float32"
        choice = settle("steps_per_dispatch", replace(known(rows, cpu), before=before))
        assert (choice.why != AS_BEFORE) is is_anew
