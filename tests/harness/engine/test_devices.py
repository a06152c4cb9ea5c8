"""Devices and strategy, in this process (two logical CPU devices) and in fresh ones."""

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from harness.engine.devices import set_up_devices
from harness.errors import InputError


def in_fresh_process(code: str) -> str:
    """What it prints."""
    return subprocess.run(
        [sys.executable, "-c", f"import tensorflow as tf\n{code}"],
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("replicas", ["auto", 1])
def test_one_cpu_device(replicas: str | int) -> None:
    devices = set_up_devices(replicas)  # type: ignore[arg-type]
    assert devices.names == devices.descriptions == ("/CPU:0",)
    assert (devices.num_replicas, devices.device_type) == (1, "CPU")
    assert devices.compute_capability is None
    assert isinstance(devices.strategy, tf.distribute.OneDeviceStrategy)


def test_two_cpu_devices() -> None:
    devices = set_up_devices(2)
    assert devices.names == ("/CPU:0", "/CPU:1")
    assert devices.strategy.num_replicas_in_sync == devices.num_replicas == 2
    assert isinstance(devices.strategy, tf.distribute.MirroredStrategy)


def test_a_set_of_devices_has_one_strategy() -> None:
    # Networks of other shapes train one after another in a process: the step's tests do.
    assert set_up_devices(2).strategy is set_up_devices(2).strategy
    assert set_up_devices(2).strategy is not set_up_devices(1).strategy


def test_more_than_the_process_was_started_with() -> None:
    with pytest.raises(InputError, match="--replicas is 3 but TensorFlow was already started"):
        set_up_devices(3)


def test_a_cpu_is_split_into_any_number() -> None:
    printed = in_fresh_process(
        "from harness.engine.devices import set_up_devices\n"
        "print(set_up_devices(3).names, len(tf.config.list_logical_devices('CPU')))"
    )
    assert printed.splitlines()[-1] == "('/CPU:0', '/CPU:1', '/CPU:2') 3"


def test_a_cpu_in_use_cannot_be_split() -> None:
    printed = in_fresh_process(
        "from harness.engine.devices import set_up_devices\n"
        "from harness.errors import InputError\n"
        "tf.constant(1) + 1\n"
        "try:\n    set_up_devices(2)\n"
        "except InputError as error:\n    print(error)"
    )
    assert "--replicas is 2 but TensorFlow was already started with 1 logical" in printed
