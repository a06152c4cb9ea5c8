"""The one entry to readers, and two sources as one: train rows and test rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.readers.formats import open_source


def test_test_rows_of_its_own(tmp_path: Path, read: Callable[..., Any]) -> None:
    for part in ("train", "test"):
        (tmp_path / "data" / part / "pos").mkdir(parents=True)
        (tmp_path / "data" / part / "pos" / "1.txt").write_text("x")
    (tmp_path / "test.csv").write_text("text,label\nbad,0\n")
    with pytest.raises(InputError, match=r"data has test rows of its own\. Leave out"):
        read(open_source(tmp_path / "data", BuildOptions(test_data=str(tmp_path / "test.csv"))))
