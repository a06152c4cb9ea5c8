"""Processes that this program starts, and that end with it."""

import ctypes
import signal
import sys
from pathlib import Path

OWN_CODE = Path(__file__).resolve().parents[2]
"""The folder that holds the packages of this program."""
_PR_SET_PDEATHSIG = 1
"""prctl(2)."""
_LIBC = ctypes.CDLL(None)
"""Loaded here: between fork and exec no library may be."""


def end_with_parent(number: signal.Signals) -> None:
    """On Linux, this process gets the signal when its parent ends."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
