"""The free memory, from the kernel's files on the machine and on control groups."""

from pathlib import Path

import pytest

from harness.base.errors import InputError
from harness.base.memory import OutOfMemoryError, free_bytes, require_memory

GB = 10**9
# Page cache fills the memory: 0.4 GB are free, but 20 GB can be had.
MEMINFO = """MemTotal:       24000000 kB
MemFree:          400000 kB
MemAvailable:   20000000 kB
Cached:         21000000 kB
SwapFree:        1000000 kB
HugePages_Total:       0
"""
AVAILABLE, SWAP = 20_000_000 * 1024, 1_000_000 * 1024


def machine(root: Path, groups: str, files: dict[str, str] | None = None) -> Path:
    """Makes a file system with Linux's files on memory, and those of control groups."""
    named = {"proc/meminfo": MEMINFO, "proc/self/cgroup": groups}
    for name, text in (named | (files or {})).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def version_2(group: str, *, most: str, used: int, cache: int) -> dict[str, str]:
    folder = f"sys/fs/cgroup/{group}/memory"
    stat = f"anon {used - cache}\nactive_file {cache // 2}\ninactive_file {cache - cache // 2}\n"
    return {f"{folder}.max": most, f"{folder}.current": str(used), f"{folder}.stat": stat}


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, AVAILABLE),  # page cache and swap are free
        (version_2("", most="max", used=9 * GB, cache=0), AVAILABLE),
        (version_2("", most=str(4 * GB), used=GB, cache=0), 3 * GB),
        # Full of page cache, which the kernel gives back.
        (version_2("jobs/7", most=str(4 * GB), used=4 * GB, cache=3 * GB), 3 * GB),
        # A group around the process's own has the tighter limit.
        (
            version_2("jobs/7", most=str(4 * GB), used=GB, cache=0)
            | version_2("jobs", most=str(4 * GB), used=2 * GB, cache=0),
            2 * GB,
        ),
        (version_2("jobs/8", most="1", used=0, cache=0), AVAILABLE),
    ],
)
def test_limits_of_control_groups(files: dict[str, str], left: int, tmp_path: Path) -> None:
    assert free_bytes(machine(tmp_path, "0::/jobs/7\n", files)) == left + SWAP


def test_limits_of_control_groups_of_version_1(tmp_path: Path) -> None:
    """A container sees its own group at the top, under the name of the machine's group."""
    folder = "sys/fs/cgroup/memory/memory"
    files = {
        f"{folder}.limit_in_bytes": str(4 * GB),
        f"{folder}.usage_in_bytes": str(3 * GB),
        f"{folder}.stat": f"active_file 1\ntotal_active_file {GB}\ntotal_inactive_file 0",
    }
    groups = "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n1:name=systemd:/\n0::/\n"
    assert free_bytes(machine(tmp_path, groups, files)) == 2 * GB + SWAP


@pytest.mark.parametrize("found", [[5 * GB], [2 * GB], [GB, 5 * GB], [GB, 2 * GB]])
def test_garbage_is_collected_before_anything_is_refused(found: list[int]) -> None:
    answers = iter(found)
    left = require_memory({"a": 2 * GB}, free=answers.__next__, place="it", remedy="")
    assert left == found[-1] - 2 * GB
    with pytest.raises(OutOfMemoryError):
        require_memory({"a": 2 * GB}, free=lambda: 2 * GB - 1, place="it", remedy="")


def test_what_does_not_fit_is_refused_with_all_numbers() -> None:
    needs = {"the table": 2 * GB, "gradients": 0, "rows": 5 * 10**6}
    with pytest.raises(OutOfMemoryError) as caught:
        require_memory(needs, free=lambda: GB, place="the host's memory", remedy="Buy more")
    assert str(caught.value) == (
        "the host's memory has 1.0 GB free, but at least 2.0 GB are needed: 2.0 GB for the table; "
        "5.0 MB for rows. Buy more"
    )
    assert isinstance(caught.value, InputError)
