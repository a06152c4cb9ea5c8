"""Ends a process whose GPUs wait for one that is lost."""

import contextlib
import math
import os
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def exit_after(seconds: float, message: str) -> Iterator[None]:
    """A context that ends the process with exit code 1, after a message on standard error, if it is
    not left within so many seconds. Nothing can be raised in a thread whose C++ code waits."""
    is_left = threading.Event()

    def watch() -> None:
        # Second by second: a process that is stopped for an hour (Ctrl-Z) loses only one of them.
        if not any(is_left.wait(1) for _ in range(math.ceil(seconds))):
            with contextlib.suppress(Exception):  # standard error may be closed
                print(message, file=sys.stderr, flush=True)
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_left.set()
