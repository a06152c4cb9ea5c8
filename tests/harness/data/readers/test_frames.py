"""Frames of pandas and polars, and tables of Arrow."""

from collections.abc import Callable
from typing import Any

import pytest

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.readers.formats import FrameSource

Reader = Callable[..., Any]


@pytest.mark.parametrize("name", ["pandas.DataFrame", "polars.DataFrame", "pyarrow.table"])
def test_frames(read: Reader, name: str) -> None:
    package, _, function = name.partition(".")
    make = getattr(pytest.importorskip(package), function)
    source = FrameSource(make({"text": ["a", None, "b"], "label": [1, 0, 1]}), BuildOptions())
    rows = read(source)
    assert (rows.contents, rows.labels) == (["a", "", "b"], ["1", "0", "1"])
    assert rows.problems.first == {"empty text": "the frame, row 2"}
    tags = make({"items": [["x"], ["y", "z"]], "labels": [["a", "b"], ["a"]]})
    rows = read(FrameSource(tags, BuildOptions()))
    assert (rows.contents, rows.labels) == ([["x"], ["y", "z"]], [["a", "b"], ["a"]])
    with pytest.raises(InputError, match=r"the frame: .* Its columns are a, b, c\."):
        FrameSource(make({"a": [1], "b": [2], "c": [3]}), BuildOptions())
