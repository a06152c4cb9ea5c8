"""Whether Python and its packages are those that the harness was tested with."""

import platform
import sys
from collections.abc import Iterator

import keras
import tensorflow as tf

from harness.commands.doctor.finding import Finding

_PYTHON = ((3, 11), (3, 14))
"""From the first on, below the second: pyproject.toml's range."""
_TESTED = {"TensorFlow": "2.21", "Keras": "3.15"}
"""pyproject.toml's ranges: versions that begin so."""


def software() -> Iterator[Finding]:
    """Python, TensorFlow, Keras and its backend."""
    yield _python()
    yield _version("TensorFlow", tf.__version__)
    yield _version("Keras", keras.__version__)
    yield _keras_backend()


def _python() -> Finding:
    least, below = (".".join(map(str, version)) for version in _PYTHON)
    if _PYTHON[0] <= sys.version_info[:2] < _PYTHON[1]:
        return Finding(subject="Python", state="ok", text=platform.python_version())
    text = f"{platform.python_version()}: install one from {least} on, below {below}"
    return Finding(subject="Python", state="broken", text=text)


def _version(package: str, version: str) -> Finding:
    tested = _TESTED[package]
    if version.startswith(f"{tested}."):
        return Finding(subject=package, state="ok", text=version)
    text = f"{version}: tested is {tested}; remove .venv, and ./scripts/harness makes it anew"
    return Finding(subject=package, state="limited", text=text)


def _keras_backend() -> Finding:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return Finding(subject="Keras backend", state="ok", text=backend)
    text = f"{backend}: set KERAS_BACKEND=tensorflow, or correct ~/.keras/keras.json"
    return Finding(subject="Keras backend", state="broken", text=text)
