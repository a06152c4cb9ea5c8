"""Child processes, which end with this program."""

import ctypes
import signal
from pathlib import Path

OWN_CODE = Path(__file__).resolve().parents[2]  # the folder that holds the packages of this program
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # here, as nothing may be loaded between fork and exec


def end_with_parent(number: signal.Signals) -> None:
    """Makes the system send this process a signal when its parent ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)
