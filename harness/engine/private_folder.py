"""A temporary folder of this process alone, which does not outlive it for long."""

import atexit
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

LONG_SECONDS = 3600.0
"""What is older than this and not finished is nobody's any more."""


def private_folder(prefix: str) -> Path:
    """Makes a folder whose name begins so. It is removed when this process ends; where that is
    killed, by a later one that asks for a folder with the same prefix.

    Raises:
        OSError: there is no place for it.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        if _age_seconds(left) > LONG_SECONDS and _lock(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    _lock(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _age_seconds(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:  # another process was quicker
        return 0.0


def _lock(folder: Path) -> bool:
    """Locks a folder until this process ends; returns whether it could."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:  # another user's, or gone
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a living process has it
        os.close(opened)
        return False
    return True
