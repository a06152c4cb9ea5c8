"""svmlight: labels, values, the first id, and lines that are wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.data.readers.formats import open_source

Reader = Callable[..., Any]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(content, name) -> path"""

    def write(content: str, name: str = "rows.svmlight") -> Path:
        (tmp_path / name).write_text(content)
        return tmp_path / name

    return write


def test_binary_rows(write: Callable[..., Path], read: Reader) -> None:
    rows = read(open_source(write("# a comment\n+1 1:1 4:1.0 # more\n-1 2:1\n\n1.0\n")))
    assert rows.contents == [[1, 4], [2], []]
    assert rows.labels == ["1", "-1", "1"]
    assert rows.problems.counts == {"empty row": 1}


def test_values_are_weights(write: Callable[..., Path], read: Reader) -> None:
    """None where all are 1: another block of the file may have some."""
    rows = read(open_source(write("1 1:1 2:-3e2\n0 1:1\n")))
    (sets,) = rows.sets
    assert (rows.contents, sets.weights.tolist()) == ([[1, 2], [1]], [1, -300, 1])
    rows = read(open_source(write("1 1:1 2:1\n0 1:1 3:0.5\n")), block_bytes=16)
    weights = [sets.weights for sets in rows.sets]
    assert weights[0] is None
    assert weights[1].tolist() == [1, 0.5]


def test_the_first_lines_say_whether_rows_have_several_labels(
    write: Callable[..., Path], read: Reader
) -> None:
    for number, several in ((1000, True), (1001, False)):
        rows = read(open_source(write("1 3:1\n" * (number - 1) + "1,2 3:1\n")))
        assert rows.labels[-1] == (["1", "2"] if several else "1")
        assert rows.problems.counts == ({} if several else {"several labels": 1})


def test_wrong_lines_are_counted(write: Callable[..., Path], read: Reader) -> None:
    path = write(
        "spam 1:1\nham qid:7 1:1\nham 1\nham 1:x\nham 1:2:3\nham -4:1\nham 99999999999:1\n"
        "ham 1:nan\nham 1:1e39\nham 1:\0\nham 0x1:1\n"
    )
    rows = read(open_source(path))
    assert (rows.contents, rows.labels) == ([[1]], ["spam"])
    assert rows.problems.counts == {"not a list of id:value": 10}
    assert rows.problems.first["not a list of id:value"] == f"{path}, line 2"
