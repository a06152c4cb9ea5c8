"""Files in Keras's format, made small."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.harness.cli import runs


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


@pytest.fixture
def write_npz(tmp_path: Path) -> Callable[..., Path]:
    """write_npz(x_train=..., y_train=..., x_test=..., y_test=...) -> path; each has a default."""
    return partial(runs.write_npz, tmp_path / "reviews.npz")


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes an empty Keras folder, in place of the user's own."""
    home = tmp_path / "keras_home"
    monkeypatch.setenv("KERAS_HOME", str(home))
    return home
