"""Imports TensorFlow without its informational lines on standard error, which its C++ libraries
write before they read any setting for their level; lines above that level still appear."""

import contextlib
import logging
import os
import re
import resource
import sys
from collections.abc import Iterator

from harness.base.errors import InputError

_INFO = re.compile(rb"I\d{4} |WARNING: All log messages before absl::InitializeLog")


# With less, its import or a small training fails or aborts; every core takes some for its thread.
_LEAST_ADDRESS_SPACE_BYTES = 4_000_000_000


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Holds back output to standard error inside, then lets through all lines but information."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_ADDRESS_SPACE_BYTES:
        raise InputError(
            f"this process may map {limit / 1e9:.1f} GB of memory (ulimit -v), but TensorFlow "
            f"needs {_LEAST_ADDRESS_SPACE_BYTES / 1e9:.1f} GB; raise the limit: ulimit -v unlimited"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A model that is built before the devices are set up would take all memory of every GPU.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # whatever ~/.keras says
    if backend != "tensorflow":
        raise InputError(
            f"KERAS_BACKEND is '{backend}', but this harness trains with TensorFlow; unset it"
        )
    # If the caller closed standard error, nothing can reach it.
    held_back = contextlib.nullcontext() if sys.stderr is None else _information_held_back()
    with held_back, _without_optional_packages():
        yield


def hide_retracing_warnings() -> None:
    """Hides TensorFlow's warnings that several trainers trace one function again and again."""
    logging.getLogger("tensorflow").addFilter(_is_no_retracing)  # once, however often it is called


def _is_no_retracing(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in record.getMessage()


@contextlib.contextmanager
def _without_optional_packages() -> Iterator[None]:
    """Hides packages from Keras that it would import for pictures and wrappers, which no command
    uses: scikit-learn and its SciPy alone are a fifth of a command's start."""
    is_command = "harness.cli.main" in sys.modules
    hidden = {"matplotlib", "sklearn"} - sys.modules.keys() if is_command else ()
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None marks it as missing
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def _information_held_back() -> Iterator[None]:
    # C++ writes to the descriptor, past Python's stream: so the descriptor is diverted.
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.memfd_create("held"), "rb") as held:  # not on a disk, which may be full
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
                    with contextlib.suppress(OSError):  # its terminal may be gone
                        os.write(2, line)
