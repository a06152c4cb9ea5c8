"""Measures free memory, and refuses what would need more."""

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from harness.base.errors import InputError


def collect_rarely() -> None:
    """Makes the garbage collector search rarely. Importing TensorFlow makes a million objects and
    hardly any garbage; searching them again and again would take a fifth of the time."""
    gc.set_threshold(50_000, 20, 50)


def free_bytes(root: Path = Path("/")) -> int:
    """Returns the bytes of host memory that this process can take before the system ends a process,
    by proc and sys under `root`. Page cache and swap count as free. A control group around the
    process, such as a container's or Slurm's, may leave less than the machine has."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    # Lines such as `MemAvailable:   23597852 kB`.
    kilobytes = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    available = kilobytes.get("MemAvailable", kilobytes["MemTotal"])  # WSL 1 has only the latter
    return min([1024 * available, *_left_in_groups(root)]) + 1024 * kilobytes["SwapFree"]


class OutOfMemoryError(InputError):
    """A request needs more memory than is free."""


def require_memory(
    needs: Mapping[str, int], *, free: Callable[[], int], place: str, remedy: str
) -> int:
    """Returns the bytes that a request leaves of a memory; OutOfMemoryError names its parts."""
    total = sum(needs.values())
    if (left := free() - total) >= 0:
        return left
    # Unused models refer to themselves, so they wait for a collection.
    gc.collect()
    there = free()
    if total <= there:
        return there - total
    parts = "; ".join(f"{shown(size)} for {name}" for name, size in needs.items() if size)
    raise OutOfMemoryError(
        f"{place} has {shown(there)} free, but at least {shown(total)} are needed: {parts}. "
        f"{remedy}"
    )


def shown(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:,.1f} GB"


def _left_in_groups(root: Path) -> Iterator[int]:
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, kinds, path = line.split(":", 2)
        if kinds == "":  # version 2
            top, limit, used, prefix = root / "sys/fs/cgroup", "memory.max", "memory.current", ""
        elif "memory" in kinds.split(","):  # version 1
            top, prefix = root / "sys/fs/cgroup/memory", "total_"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            # A container may see its own group at the top, while the path is the machine's.
            with contextlib.suppress(OSError):
                most = (folder / limit).read_text().strip()
                taken = int((folder / used).read_text())
                stat = (folder / "memory.stat").read_text().splitlines()
                if most != "max":
                    kept = {name: int(size) for name, size in map(str.split, stat)}
                    cache = sum(kept.get(f"{prefix}{n}_file", 0) for n in ("active", "inactive"))
                    yield int(most) - taken + cache
