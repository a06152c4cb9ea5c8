"""TensorFlow's errors about files, as the system's."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf


@contextlib.contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Turns TensorFlow's error about a file back into the OSError that caused it, of `path`."""
    try:
        yield
    except tf.errors.OpError as error:
        for number in errno.errorcode:
            if f"; {os.strerror(number)}" in error.message:
                raise OSError(number, os.strerror(number), str(path)) from error
        raise OSError(errno.EIO, error.message, str(path)) from error
    except OSError as error:
        error.filename = str(path)
        raise
