"""What bounds a run, from step times whose cause is known."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bench.diagnose import diagnose, work_of_step

WORK = work_of_step(
    rows=500, ids=65_000, num_tokens=10_000, hidden_units=(50, 50), num_outputs=1, compute_bytes=4
)
STEP_MS = {
    "full": 10.0,
    "input only": 1.0,
    "fixed batch": 9.5,
    "no first layer": 3.0,
    "no optimizer": 7.0,
    "no all-reduce": 9.5,
    "empty dispatch": 2.0,
}
ROOFS = {"bytes_per_second": 1e10, "flops_per_second": 1e12}


def diagnosed(*, roofs: dict[str, float] = ROOFS, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "data_wait_fraction": 0.01,
        "steps_per_dispatch": 20.0,
    }
    step_ms = STEP_MS | changes.pop("step_ms", {})
    return diagnose(step_ms, work=WORK, roofs=roofs, **(arguments | changes))


def test_shares_of_a_step() -> None:
    found = diagnosed()
    assert found.shares == {
        "input": pytest.approx(0.05),
        "launch": pytest.approx(0.01),
        "communication": 0.0,
        "first layer": pytest.approx(0.65),
        "optimizer": pytest.approx(0.25),
        "other layers": pytest.approx(0.3),
    }


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({}, "memory"),
        ({"roofs": {"bytes_per_second": 1e12, "flops_per_second": 1e10}}, "compute"),
        ({"data_wait_fraction": 0.5}, "input"),
        ({"step_ms": {"fixed batch": 4.0}}, "input"),
        ({"steps_per_dispatch": 1.0, "step_ms": {"empty dispatch": 4.0}}, "launch"),
        ({"step_ms": {"no all-reduce": 5.0}}, "communication"),
    ],
)
def test_what_bounds_it(changes: dict[str, Any], bound: str) -> None:
    assert diagnosed(**changes).bound == bound


@given(times=st.dictionaries(st.sampled_from(sorted(STEP_MS)), st.floats(0.01, 100)))
def test_noise_makes_no_share_below_nothing_or_above_all(times: dict[str, float]) -> None:
    found = diagnosed(step_ms=times)
    assert all(0 <= share <= 1 for share in found.shares.values())


def test_the_work_of_the_tutorials_step() -> None:
    # 505,201 parameters with three layers of 50, read and written by Adam eight times in all.
    work = work_of_step(
        rows=500,
        ids=65_000,
        num_tokens=10_000,
        hidden_units=(50, 50, 50),
        num_outputs=1,
        compute_bytes=4,
    )
    assert work.bytes_moved == 2 * 65_000 * 50 * 4 + 8 * 4 * 505_201
    assert work.flops == 2 * 65_000 * 50 + 6 * 500 * (2 * 50 * 50 + 50) + 12 * 505_201


def test_the_roofs_of_this_device(logical_devices: list[str]) -> None:
    from harness.bench.variants import roofs

    found = roofs(logical_devices[0], "float32")
    assert 1e8 < found["bytes_per_second"] < 1e14
    assert 1e8 < found["flops_per_second"] < 1e16
