"""Facts about this process, its machine and the installed versions: what a figure is worth nothing
without."""

import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("tensorflow", "keras", "numpy", "tensorboard")


def versions() -> dict[str, str]:
    """Versions of Python, the harness and the packages that decide its figures."""
    return {
        "python": platform.python_version(),
        "harness": importlib.metadata.version("multi-hot-harness"),
        **{package: importlib.metadata.version(package) for package in _PACKAGES},
    }


def host() -> dict[str, Any]:
    """The machine: system, processor, the cores that this process may use, memory."""
    return {
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def seconds_since_process_start() -> float:
    """Wall time since the operating system started this process."""
    stat = Path("/proc/self/stat")
    if stat.exists():
        # Linux gives the start in clock ticks since boot. psutil turns it into a time of day by the
        # time of boot in whole seconds, which is up to a second off.
        # Fields are counted behind the name in parentheses, which may hold spaces itself: proc(5).
        start_ticks = int(stat.read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - psutil.Process().create_time()


def peak_rss_bytes() -> int:
    """The most memory that this process ever held resident.

    From Linux's VmHWM where it exists: getrusage's figure also counts the parent before exec.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
