"""Facts that a run records: the machine, installed versions, peak memory."""

import importlib.metadata
import os
import platform
import resource
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("tensorflow", "keras", "numpy", "tensorboard")


def versions() -> dict[str, str]:
    """Returns the versions of Python, the harness and the packages that decide its speed."""
    return {
        "python": platform.python_version(),
        "harness": importlib.metadata.version("multi-hot-harness"),
        **{package: _version(package) for package in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # as with tensorflow-cpu; slow, 0.1 s
        (distribution, *_) = importlib.metadata.packages_distributions()[package]
        return importlib.metadata.version(distribution)


def host() -> dict[str, Any]:
    """Returns the machine's system, processor, memory, and the cores that this process may use."""
    return {
        "system": platform.platform(),
        "cpu": _line_after("/proc/cpuinfo", "model name\t: ") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
    }


def peak_rss_bytes() -> int:
    """Returns the peak resident memory, by Linux's VmHWM: getrusage counts the parent's, too."""
    if known := _line_after("/proc/self/status", "VmHWM:"):
        return int(known.split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _line_after(path: str, start: str) -> str | None:
    lines = Path(path).read_text().splitlines()
    return next((line.removeprefix(start) for line in lines if line.startswith(start)), None)
