"""Disks that are really small."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(place: Path, size_bytes: int, *options: str) -> Iterator[None]:
    """Mounts a file system of a size; skips the test if mounting is not allowed."""
    all_options = ",".join((f"size={size_bytes}", *options))
    command = ["mount", "-t", "tmpfs", "-o", all_options, "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)
