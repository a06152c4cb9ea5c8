"""What happened on the machine during a measurement that makes its figures doubtful."""

import contextlib
import os
import time

import psutil

_SLEPT_SECONDS = 0.05
_BUSY_SHARE = 0.05
"""Share of all cores' time that others used; more is marked."""

Reading = tuple[float, float, float]
"""Seconds: without and with the time in which the machine slept, and the CPU time of others."""


def read(own: tuple[int, ...]) -> Reading:
    """Reads the clocks now. `own` has the processes of the measurement besides this one."""
    cpu = psutil.cpu_times()
    # user and nice already include the time of guests (proc(5)); others' machines count (steal).
    others = sum(cpu)
    others -= sum(getattr(cpu, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))
    for pid in (os.getpid(), *own):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended, and its row says so
            others -= sum(psutil.Process(pid).cpu_times()[:2])
    # CLOCK_MONOTONIC stops while Linux sleeps, CLOCK_BOOTTIME does not: clock_gettime(2).
    boot = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.monotonic(), time.clock_gettime(boot), others


def marks(before: Reading, after: Reading) -> tuple[str, ...]:
    """What happened between two readings that makes figures doubtful, with the evidence."""
    awake, passed, others = (now - then for then, now in zip(before, after, strict=True))
    cores = psutil.cpu_count() or 1
    found = []
    if passed - awake > _SLEPT_SECONDS:
        found.append(f"the machine slept for {passed - awake:.1f} s")
    if others / awake > _BUSY_SHARE * cores:
        found.append(f"busy: others used {others / awake:.1f} of {cores} cores")
    return tuple(found)
