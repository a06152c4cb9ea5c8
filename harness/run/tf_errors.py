"""TensorFlow's errors about files, as the system's."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Names `path` in errors about it, and turns TensorFlow's error back into the OSError that
    caused it."""
    import tensorflow as tf  # not before a run: commands that start none need not wait for it

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
