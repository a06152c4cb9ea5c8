"""The machine under the figures: what it is, and what happened on it while they were taken."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

_SLEPT_SECONDS = 0.05
_BUSY_SHARE = 0.05
"""Of all cores' time, that others used or the hypervisor withheld: more is marked."""


def code_state(folder: Path) -> tuple[str | None, bool | None]:
    """The commit of the repository that holds `folder`, and whether files there differ from it.

    (None, None) where it is no repository, or git is not installed.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit, bool(_git(folder, "status", "--porcelain"))
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None, None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def load_average() -> float:
    """Runnable processes, averaged over the last minute."""
    return psutil.getloadavg()[0]


def oom_kills() -> int | None:
    """Processes that the kernel has killed for memory since it started; None where it does not say.

    Counts those of every control group (proc_vmstat(5)).
    """
    counters = Path("/proc/vmstat")
    if not counters.exists():
        return None
    found = [line for line in counters.read_text().splitlines() if line.startswith("oom_kill ")]
    return int(found[0].split()[1]) if found else None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Clocks and counters at one moment, in seconds."""

    awake: float
    """Does not count the time in which the machine slept."""
    passed: float
    """Counts it."""
    busy: float
    """CPU time of all processes."""
    stolen: float
    """CPU time that the hypervisor gave to others."""
    own: float
    """CPU time of the processes that belong to the measurement."""


def read(own: tuple[int, ...]) -> Reading:
    """Reads the clocks now.

    Args:
        own: ids of the processes that belong to the measurement, this one not named.
    """
    cpu = psutil.cpu_times()
    idle = cpu.idle + getattr(cpu, "iowait", 0.0)
    stolen = getattr(cpu, "steal", 0.0)
    # Guests' time is counted in user and nice already (proc(5)).
    guests = getattr(cpu, "guest", 0.0) + getattr(cpu, "guest_nice", 0.0)
    # CLOCK_MONOTONIC stops while Linux sleeps, CLOCK_BOOTTIME does not: clock_gettime(2).
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return Reading(
        awake=time.monotonic(),
        passed=time.monotonic() if boot is None else time.clock_gettime(boot),
        busy=sum(cpu) - idle - stolen - guests,
        stolen=stolen,
        own=sum(_cpu_seconds(pid) for pid in (os.getpid(), *own)),
    )


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0  # it ended; its row says so
    return float(times.user + times.system)


def marks(before: Reading, after: Reading) -> tuple[str, ...]:
    """What happened between two readings that makes figures doubtful, with the evidence."""
    found = []
    slept = (after.passed - before.passed) - (after.awake - before.awake)
    if slept > _SLEPT_SECONDS:
        found.append(f"the machine slept for {slept:.1f} s")
    seconds = after.awake - before.awake
    cores = psutil.cpu_count() or 1
    if seconds <= 0:
        return tuple(found)
    others = ((after.busy - before.busy) - (after.own - before.own)) / seconds
    if others > _BUSY_SHARE * cores:
        found.append(f"busy: other processes used {others:.1f} of {cores} cores")
    stolen = (after.stolen - before.stolen) / seconds
    if stolen > _BUSY_SHARE * cores:
        found.append(f"busy: the hypervisor withheld {stolen:.1f} of {cores} cores")
    return tuple(found)
