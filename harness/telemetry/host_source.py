"""The host, sampled through psutil."""

import contextlib
import time
from collections.abc import Callable, Iterator

import psutil

from harness.telemetry.sampler import Read, Tell

_LEAST_CPU_SECONDS = 0.1
"""Below this, psutil documents its CPU percentages as meaningless."""


@contextlib.contextmanager
def host(tell: Tell, *, clock: Callable[[], float] = time.perf_counter) -> Iterator[Read]:
    """`host/cpu_percent`, of the whole machine from 0 to 100, since the value before; and
    `host/rss_bytes`, of this process."""
    del tell  # a host has nothing to explain
    process = psutil.Process()
    psutil.cpu_percent()  # the next call reports the time since this one
    asked_at = clock()

    def read() -> dict[str, float]:
        nonlocal asked_at
        figures = {"host/rss_bytes": float(process.memory_info().rss)}
        if clock() - asked_at >= _LEAST_CPU_SECONDS:
            figures["host/cpu_percent"] = psutil.cpu_percent()
            asked_at = clock()
        return figures

    yield read
