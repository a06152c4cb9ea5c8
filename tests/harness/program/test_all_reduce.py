"""The kind of all-reduce, by the setting and the devices; and the end of sums after a failure."""

from typing import Any

import pytest

from harness.base.errors import InputError
from harness.program.all_reduce import AllReduce, resolved_all_reduce
from harness.workers.cluster import ALONE


@pytest.mark.parametrize(
    ("asked", "kind", "devices", "workers", "resolved"),
    [
        ("auto", "CPU", 1, 1, "ring"),
        ("ring", "CPU", 1, 1, "ring"),
        ("auto", "CPU", 1, 3, "ring"),
        ("auto", "GPU", 4, 1, "nccl"),
        ("nccl", "GPU", 4, 1, "nccl"),
        ("nccl", "GPU", 1, 2, "nccl"),
        ("ring", "GPU", 1, 2, "ring"),
        ("ring", "CPU", 1, 2, "ring"),
    ],
)
def test_what_applies(asked: Any, kind: str, devices: int, workers: int, resolved: str) -> None:
    found = resolved_all_reduce(asked, device_type=kind, num_devices=devices, num_workers=workers)
    assert found == resolved


@pytest.mark.parametrize(
    ("asked", "kind", "devices", "workers"),
    [("nccl", "CPU", 1, 2), ("ring", "GPU", 1, 1), ("ring", "GPU", 2, 1)],
)
def test_what_does_not_apply(asked: Any, kind: str, devices: int, workers: int) -> None:
    where = f"{workers} x {devices} {kind}"
    with pytest.raises(InputError, match=f"--all-reduce={asked} does not apply .*{where}: .*auto"):
        resolved_all_reduce(asked, device_type=kind, num_devices=devices, num_workers=workers)


def test_a_failure_in_a_program_without_sums_ends_none() -> None:
    """To end a group it would have to connect one, of GPUs that are not here."""
    AllReduce(("/GPU:0", "/GPU:1"), ALONE, "nccl").abort()
