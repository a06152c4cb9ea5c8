"""A clock of the system that can be set, for processes of the tests."""

import os
import shutil
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("clock.c")


def build(folder: Path) -> Path:
    """Compiles the library into `folder`; returns its path. Skips the test without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs gcc, to build a clock that can be set")
    path = folder / "clock.so"
    flags = ("-x", "c", "-O1", "-Wall", "-Wextra", "-fPIC", "-shared")
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(path)], check=True)
    return path


def at(moment: datetime, library: Path) -> dict[str, str]:
    """Returns the environment of a process whose clock is set to `moment` now."""
    shift = int(moment.timestamp() - time.time())
    loaded = ":".join(filter(None, (str(library), os.environ.get("LD_PRELOAD"))))
    return {"LD_PRELOAD": loaded, "CLOCK_SHIFT_SECONDS": str(shift)}
