"""Parquet: columns by their types, batches, and files that are none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.base.errors import InputError
from harness.data.readers.formats import open_source

Reader = Callable[..., Any]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(column=[...], ...) -> path"""

    def write(**columns: Any) -> Path:
        path = tmp_path / "rows.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=3)
        return path

    return write


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["pos", "neg"], ["pos", "neg"]),
        ([1, 0], ["1", "0"]),
        ([True, False], ["True", "False"]),
        ([["a", "b"], []], [["a", "b"], []]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
    ],
)
def test_texts_with_labels(
    write: Callable[..., Path], read: Reader, labels: Any, names: list[Any]
) -> None:
    source = open_source(write(text=["good", "bad"], more=[1, 2], label=labels))
    assert (read(source).contents, read(source).labels) == (["good", "bad"], names)
    assert source.note == "text from column text, labels from column label"


def test_lists_of_ids_and_of_strings(write: Callable[..., Path], read: Reader) -> None:
    ids = read(open_source(write(ids=[[3, 1], [], [-1], [None], None], label=list("abcde"))))
    assert (ids.contents, ids.labels) == ([[3, 1], [], []], ["a", "b", "e"])
    assert ids.problems.counts == {"empty row": 2, "not a list of ids from 0 to 2,147,483,646": 2}
    tags = read(open_source(write(items=[["milk"], ["egg", "milk"]], label=[0, 1])))
    assert tags.contents == [["milk"], ["egg", "milk"]]


def test_labels_that_are_structs(write: Callable[..., Path], read: Reader) -> None:
    rows = read(open_source(write(text=["a", "b"], label=[{"name": "x"}, {"name": "y"}])))
    assert (rows.contents, rows.problems.counts) == ([], {"several labels": 2})


def test_rows_that_lack_something(write: Callable[..., Path], read: Reader) -> None:
    path = write(text=["a", None, "n\0", "d"], label=["x", "y", "z", None])
    rows = read(open_source(path))
    assert (rows.contents, rows.labels) == (["a", ""], ["x", "y"])
    assert rows.problems.counts == {"empty text": 1, "NUL character": 1, "empty label": 1}
    assert rows.problems.first["NUL character"] == f"{path}, row 3"


def test_a_bomb(write: Callable[..., Path], read: Reader) -> None:
    """Dictionaries and runs take a few bytes for many rows."""
    for columns in (
        {"text": ["long " * 1000] * 2000, "label": ["a", "b"] * 1000},
        {"items": [["long " * 1000] * 1000] * 4, "label": ["a", "b"] * 2},
        {"ids": [[1] * 100_000] * 30, "label": ["a", "b"] * 15},
    ):
        path = write(**columns)
        assert path.stat().st_size < 1_000_000
        with pytest.raises(InputError, match=r"unpacks to .* allowed.*raise --max-data-bytes"):
            read(open_source(path, max_data_bytes=1_000_000))


def test_columns_that_are_not_plain(write: Callable[..., Path], read: Reader) -> None:
    two = write(kind=["x", "y"], words=["a long enough text", "another such text"])
    assert read(open_source(two)).labels == ["x", "y"]
    twice = pa.table([["some words"], ["x"], ["y"]], names=["text", "label", "label"])
    pq.write_table(twice, two)
    with pytest.raises(InputError, match=r"has two columns label\. Give each its own name"):
        open_source(two)


def test_a_file_that_is_none(write: Callable[..., Path], tmp_path: Path) -> None:
    whole = write(text=["a"], label=["b"]).read_bytes()
    for content in (b"", b"PAR1", whole[:-20], b"x" * 100):
        (tmp_path / "bad.parquet").write_bytes(content)
        with pytest.raises(InputError, match="is damaged, or not a Parquet file"):
            open_source(tmp_path / "bad.parquet")
