"""Hostile files of every format: each must give the right answer, or one message and exit code 2.

    .venv/bin/python -m benchmarks.faults.hostile                        # 10,000 of each format
    .venv/bin/python -m benchmarks.faults.hostile --files 100 --seed 1   # as the CI does
    .venv/bin/python -m benchmarks.faults.hostile --formats keras npz --seconds 60 --keep /tmp/kept

A hostile file is a valid one with flipped bits, or with other lengths, nesting, sizes, types or
members, or it is missing; a printed seed decides. A process for each format makes and reads the
files one after another. A file fails if reading it ends in any exception but an `InputError`, takes
more than 10 s or 1.5 GB, ends the process, believes a number that a flipped bit changed, writes a
message that is long or has control characters, or changes a file.

The exit code is 1 if a file failed.
"""

import json
import secrets
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import tyro

from benchmarks.faults.hostile_formats import FORMATS

_BY_CLOCK = 6
"""The limit by the clock, as a multiple of the limit of the processor's time. Only the latter does
not depend on other programs, but a process that waits for ever does not use any."""
_SHOWN = 20
_SHOWN_CHARACTERS = 700


@dataclass(frozen=True, kw_only=True)
class HostileConfig:
    """Feed hostile files to the harness."""

    formats: tuple[str, ...] = tuple(FORMATS)
    """Which formats."""

    files: int = 10_000
    """Files of each format."""

    seconds: float = float("inf")
    """Seconds for each format, without the start of its process."""

    seed: int = field(default_factory=lambda: secrets.randbelow(2**31))
    """Seed of the damage; a fresh one by default."""

    flips: bool = False
    """Flip only single bits."""

    limit_seconds: float = 10.0
    """Limit of the processor's time for one file; by the clock, six times as much."""

    first: int = 0
    """Number of the first file, to repeat one."""

    keep: str = ""
    """Folder for the inputs that failed."""

    jobs: int = 2
    """Processes at a time."""


@dataclass(kw_only=True)
class Report:
    """The results of the files of one format."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    slowest_seconds: float = 0.0
    seconds: float = 0.0

    def add(self, told: Mapping[str, Any], *, seconds: float) -> None:
        """Adds the process's report of one file."""
        self.seconds += seconds
        self.slowest_seconds = max(self.slowest_seconds, seconds)
        self.outcomes[told["outcome"]] += 1
        self.peak_bytes = max(self.peak_bytes, told["peak"])
        if told["failure"]:
            self.failures.append(f"{told['index']}, {told['how']}: {told['failure']}")

    def __str__(self) -> str:
        total = self.outcomes.total()
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(self.outcomes.items()))
        return (
            f"{self.name}: {total:,} files in {self.seconds:.0f} s: {counts}; at most "
            f"{self.peak_bytes / 1e9:.2f} GB and {self.slowest_seconds:.1f} s"
        )


def examine(name: str, config: HostileConfig) -> Report:
    """Runs the files of one format, with a new process after each file that ended one."""
    report = Report(name=name)
    index, stop = config.first, config.first + config.files
    while index < stop and report.seconds < config.seconds:
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            index = _run_process(report, config, index, stop, folder)
    return report


def _run_process(report: Report, config: HostileConfig, index: int, stop: int, folder: str) -> int:
    """Runs files until all are done, the time is over or one ends the process; returns the number
    of the next file."""
    arguments = [report.name, config.seed, config.flips, index, stop, folder, config.keep]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.faults.hostile_worker", *map(str, arguments)],
        stdout=subprocess.PIPE,
        bufsize=0,  # `select` does not see data in a buffer
    ) as process:
        try:
            index, ended = _watch(process, report, config, index, stop)
        finally:
            process.kill()
    if ended is None:
        return index
    report.outcomes["failed"] += 1
    report.failures.append(f"{index}: the process {ended}")
    return index + 1


def _watch(
    process: subprocess.Popen[bytes], report: Report, config: HostileConfig, index: int, stop: int
) -> tuple[int, str | None]:
    """Follows a process; returns the number of the next file, and if the process ended too early,
    how."""
    assert process.stdout is not None
    used = psutil.Process(process.pid).cpu_times
    began, cpu_began = None, 0.0
    while report.seconds < config.seconds:
        if not select.select([process.stdout], [], [], 1)[0]:
            seconds = 0.0 if began is None else time.monotonic() - began
            cpu_seconds = 0.0 if began is None else sum(used()[:2]) - cpu_began
            if cpu_seconds > config.limit_seconds or seconds > _BY_CLOCK * config.limit_seconds:
                return index, f"took more than {config.limit_seconds:.0f} s"
            continue
        line = process.stdout.readline()
        if not line:
            if began is None:
                raise RuntimeError(f"{report.name}: its process could not start")
            return index, f"ended (exit code {process.wait()})"
        told: dict[str, Any] = json.loads(line)
        if "begins" in told:
            index, began, cpu_began = told["begins"], time.monotonic(), sum(used()[:2])
            continue
        assert began is not None
        report.add(told, seconds=time.monotonic() - began)
        index += 1
        if index == stop:
            break
    return stop, None


def main() -> int:
    config = tyro.cli(HostileConfig)
    if unknown := set(config.formats) - FORMATS.keys():
        raise SystemExit(f"there is no format {', '.join(sorted(unknown))}")
    print(f"seed {config.seed}", flush=True)
    if config.keep:
        Path(config.keep).mkdir(parents=True, exist_ok=True)
    failed = False
    with ThreadPoolExecutor(config.jobs) as pool:
        for report in pool.map(lambda name: examine(name, config), config.formats):
            print(report, flush=True)
            failed = failed or bool(report.failures)
            for failure in report.failures[:_SHOWN]:
                if len(failure) > _SHOWN_CHARACTERS:  # a traceback's end says most
                    failure = f"{failure[:100]}...{failure[100 - _SHOWN_CHARACTERS :]}"
                print(f"  failed: seed {config.seed}, file {failure}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
