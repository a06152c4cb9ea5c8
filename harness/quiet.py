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
from collections.abc import Iterable, Iterator
from importlib.abc import MetaPathFinder

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
    absent = _Absent(name for name in _NEEDLESS if name not in sys.modules)
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)


class _Absent(MetaPathFinder):
    """Says of some packages that there are none.

    Not by None in `sys.modules`, Python's own mark of such a package: SciPy takes what stands there
    for the package.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """An import makes half a million objects that stay: the collector is to leave them alone."""
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
