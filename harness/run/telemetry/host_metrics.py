"""Samples the host: CPU load and the memory of this process."""

import time

import psutil

from harness.run.telemetry.sampler import Read

_MIN_CPU_SECONDS = 0.1
"""The shortest time to measure over: psutil calls CPU percentages over less meaningless."""


def host_reader() -> Read:
    """Returns a reader of `host/cpu_percent`, the use of the whole machine since the previous
    reading, from 0 to 100, and `host/rss_bytes`, the memory of this process."""
    process = psutil.Process()
    psutil.cpu_percent()  # the next call reports the time since this one
    asked_at = time.monotonic()

    def read() -> dict[str, float]:
        nonlocal asked_at
        values = {"host/rss_bytes": float(process.memory_info().rss)}
        if time.monotonic() - asked_at >= _MIN_CPU_SECONDS:
            values["host/cpu_percent"] = psutil.cpu_percent()
            asked_at = time.monotonic()
        return values

    return read
