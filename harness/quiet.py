"""Imports TensorFlow without what nobody asked for: its informational lines, packages that Keras
takes in where it finds them, and searches for garbage among what stays.

TensorFlow's C++ libraries write a few lines at level "info" to standard error before any setting
for their level is read; whatever is above that level still appears. Their later log is off (what
fails comes as a Python exception all the same) unless TF_CPP_MIN_LOG_LEVEL says otherwise.
"""

import contextlib
import gc
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from harness.errors import InputError

_NEEDLESS = ("jax", "matplotlib", "torch")
"""Keras imports them for backends and galleries that are not used here, which takes up to a quarter
of a second and 0.1 GB. They can be imported as ever afterwards; those parts of Keras stay without
them."""

_INFO = re.compile(rb"I\d{4} |WARNING: All log messages before absl::InitializeLog")


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Holds back what reaches standard error inside, then lets through all but information. The
    packages in `_NEEDLESS` seem to be absent inside, unless they have been imported before.

    Raises:
        InputError: when the environment asks Keras for another backend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # whatever ~/.keras says
    if backend != "tensorflow":
        raise InputError(
            f"KERAS_BACKEND is '{backend}', but this harness trains with TensorFlow; unset it"
        )
    with _without_needless(), _without_collections():
        if sys.stderr is None:  # closed by who called us: nothing can reach it
            yield
            return
        with _information_held_back():
            yield


@contextlib.contextmanager
def _without_needless() -> Iterator[None]:
    hidden = [name for name in _NEEDLESS if name not in sys.modules]
    # None is Python's own mark of a module that is not to be found.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """An import makes a million objects that stay: the collector is to leave them alone."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _information_held_back() -> Iterator[None]:
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if not _INFO.match(line):
                    os.write(2, line)
