"""Files in Keras's format, made small."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Rows = Sequence[Any]


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


# For each file, not the session: tests of other rooms would build all kernels again.
@pytest.fixture(autouse=True, scope="module")
def own_cache(cache_folder: Path) -> Iterator[None]:
    """Keeps tests away from the user's cache of data sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTI_HOT_CACHE", str(cache_folder))
        yield


def object_array(rows: Rows) -> np.ndarray:
    # np.array would make equally long rows a matrix.
    array = np.empty(len(rows), object)
    for index, row in enumerate(rows):
        array[index] = row
    return array


@pytest.fixture
def write_npz(tmp_path: Path) -> Callable[..., Path]:
    """write_npz(x_train=..., y_train=..., x_test=..., y_test=...) -> path; each has a default.

    Rows are pickled as Keras's file has them; an array is stored as it is; None leaves it out.
    """

    def write(**changes: Any) -> Path:
        parts: dict[str, Any] = {
            "x_train": [[1, 2, 3], [4, 5], [], [9, 9, 1, 30]],
            "y_train": np.array([0, 1, 0, 1]),
            "x_test": [[7], [1, 1, 1], [2, 8]],
            "y_test": np.array([1, 0, 1]),
        }
        parts |= changes
        path = tmp_path / "reviews.npz"
        arrays: dict[str, Any] = {
            name: part if isinstance(part, np.ndarray) else object_array(part)
            for name, part in parts.items()
            if part is not None
        }
        np.savez(path, **arrays)
        return path

    return write


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes an empty Keras folder, in place of the user's own."""
    home = tmp_path / "keras_home"
    monkeypatch.setenv("KERAS_HOME", str(home))
    return home
