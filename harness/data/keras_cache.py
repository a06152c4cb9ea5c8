"""Where Keras keeps its data sets, and the download of imdb.npz through Keras itself."""

import os
import tempfile
from pathlib import Path

from harness.errors import InputError

# The address and SHA-256 in keras.datasets.imdb of Keras 3.15.
_IMDB_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/imdb.npz"
_IMDB_SHA256 = "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"


def keras_home() -> Path:
    """$KERAS_HOME, else ~/.keras, else .keras in the temporary folder: as Keras decides."""
    if "KERAS_HOME" in os.environ:
        return Path(os.environ["KERAS_HOME"]).expanduser()
    home = Path.home()
    return (home if os.access(home, os.W_OK) else Path(tempfile.gettempdir())) / ".keras"


def cached_file(name: str) -> Path:
    """The path at which Keras keeps the data set file `name`; it need not exist."""
    return keras_home() / "datasets" / name


def imdb_file() -> Path:
    """Keras's cached imdb.npz, downloaded first when it is absent.

    Raises:
        InputError: there is none and it cannot be downloaded; the message names the ways out.
    """
    path = cached_file("imdb.npz")
    return path if path.exists() else _download_imdb(path)


def _download_imdb(path: Path) -> Path:
    # Imported here: only a download pays for TensorFlow's start.
    import keras

    try:
        # Keras turns to another folder, without a word, when its own does not exist.
        path.parent.mkdir(parents=True, exist_ok=True)
        fetched = keras.utils.get_file(
            path.name,
            _IMDB_URL,
            file_hash=_IMDB_SHA256,
            cache_dir=str(path.parent.parent),
        )
    except Exception as error:
        # Keras reports a failed fetch as a plain Exception, so no narrower class will do.
        if type(error) is Exception or isinstance(error, (OSError, ValueError)):
            raise InputError(
                f"No imdb.npz at {path}, and it cannot be downloaded from {_IMDB_URL}: {error}. "
                f"Put imdb.npz at {path}, or pass --data path/to/imdb.npz, or use "
                "--data synthetic."
            ) from error
        raise
    return Path(fetched)
