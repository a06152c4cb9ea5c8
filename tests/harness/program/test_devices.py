"""The devices that a run takes. No GPU is needed: the choice is a pure function of their number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.program.devices import choose_replicas, set_up_devices


@pytest.mark.parametrize("replicas", ["auto", 1, 3])
def test_a_cpu_trains_all_replicas(replicas: str | int) -> None:
    devices = set_up_devices(replicas, batch_size=12)  # type: ignore[arg-type]
    assert devices.names == devices.descriptions == ("/CPU:0",)
    assert devices.device_type == "CPU"
    assert devices.num_replicas == (1 if replicas == "auto" else replicas)
    assert devices.why.startswith("no GPU" if replicas == "auto" else "asked for")
    assert ("one program" in devices.why) == (replicas == 3)
    assert devices.compute_capability is None
    assert 2**28 < devices.free_bytes() <= 2 * devices.memory_bytes


def test_many_replicas_cost_a_cpu_nothing() -> None:
    """Each would be a logical device with threads of its own, but none is made."""
    assert set_up_devices(10_000, batch_size=10_000).names == ("/CPU:0",)


@pytest.mark.parametrize(("before", "replicas"), [(3, 3), (None, 1)])
def test_auto_is_as_in_the_run_resumed(before: int | None, replicas: int) -> None:
    devices = set_up_devices("auto", batch_size=12, before=before)
    assert devices.num_replicas == replicas
    assert devices.why.startswith("as in the run resumed" if before else "no GPU")
    assert set_up_devices(2, batch_size=12, before=before).why.startswith("asked for")


@given(num_gpus=st.integers(0, 16), batch_size=st.integers(1, 10**6))
def test_auto_is_a_divisor_of_any_batch_on_any_machine(num_gpus: int, batch_size: int) -> None:
    replicas, why = choose_replicas(num_gpus, batch_size)
    assert 1 <= replicas <= max(1, num_gpus)
    assert batch_size % replicas == 0
    assert replicas == 1 or batch_size // replicas >= 8_192
    assert why
    if "--batch-size" in why:
        assert choose_replicas(num_gpus, int(why.split()[-1]))[0] == num_gpus
    if num_gpus > 1:  # and no larger one would do
        better = range(replicas + 1, num_gpus + 1)
        assert not [n for n in better if batch_size % n == 0 and batch_size // n >= 8_192]


def test_the_reason_says_how_to_use_all_gpus() -> None:
    assert choose_replicas(8, 500) == (
        1,
        "of 8 GPUs: all would get shares of fewer than 8,192 rows of a batch; to use them: "
        "--replicas 8 --batch-size 65536",
    )
    assert choose_replicas(2, 32_768, workers=2)[0] == 2
    replicas, why = choose_replicas(2, 32_769)
    assert (replicas, "unequal shares" in why) == (1, True)
    assert choose_replicas(2, 500, workers=2)[1].endswith("--batch-size 32768")
