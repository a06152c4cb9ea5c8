"""What a process that was started to work for this one does first."""

import ctypes
import os
import signal
import sys
from typing import BinaryIO

_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


def die_with_parent() -> None:
    """Ends this process with its parent, however that ends, also while it is stopped (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def take_standard_output() -> BinaryIO:
    """What was standard output, for answers alone: libraries that print must not garble them, and
    reach standard error from now on."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers
