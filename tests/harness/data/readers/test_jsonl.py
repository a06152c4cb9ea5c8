"""JSONL: kinds of content and labels, and lines that are no JSON object."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.readers.formats import open_source
from harness.data.readers.records import MAX_TEXT_BYTES

Reader = Callable[..., Any]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(object, "a line", ...) -> path"""

    def write(*lines: Any) -> Path:
        path = tmp_path / "rows.jsonl"
        text = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_text("".join(f"{line}\n" for line in text))
        return path

    return write


def test_texts_with_a_label(write: Callable[..., Path], read: Reader) -> None:
    labels = ["pos", 1, 1.0, True, 0.5]
    rows = read(open_source(write(*({"text": "x", "label": label} for label in labels))))
    assert rows.contents == ["x"] * 5
    assert rows.labels == ["pos", "1", "1", "True", "0.5"]


def test_lists_of_labels_are_multi_label(write: Callable[..., Path], read: Reader) -> None:
    path = write(
        {"text": "a", "labels": ["x", 2]},
        {"text": "b", "labels": []},
        {"text": "c", "labels": "New York"},
    )
    assert read(open_source(path)).labels == [["x", "2"], [], ["New York"]]
    joined = write({"text": "a", "label": "x; y"}, {"text": "b", "label": ""})
    assert read(open_source(joined, BuildOptions(label_separator=";"))).labels == [["x", "y"], []]


def test_lists_of_strings_and_of_ids(write: Callable[..., Path], read: Reader) -> None:
    tags = read(open_source(write({"items": ["milk", "egg"], "y": 0}, {"items": [], "y": 1})))
    assert tags.contents == [["milk", "egg"], []]
    assert tags.problems.counts == {"empty row": 1}
    path = write(
        *({"ids": ids, "label": "a"} for ids in ([], [3, 1, 3], [-1], [2**31], [True], [1.5], "x"))
    )
    ids = read(open_source(path))
    assert ids.contents == [[], [3, 1, 3]]
    assert ids.sets[0].num_tokens == 4
    assert ids.problems.counts == {"empty row": 1, "not a list of ids from 0 to 2,147,483,646": 5}


def test_wrong_lines_are_counted(write: Callable[..., Path], read: Reader) -> None:
    path = write(
        {"text": "good", "label": "a"},
        "",
        "{broken",
        "[1]",
        "[" * 100_000,
        '{"text": ' + "9" * 5_000 + "}",
        {"text": 5, "label": "a"},
        {"text": "n\0", "label": "a"},
        {"text": "no label", "label": None},
        {"text": "several", "label": ["a", "b"]},
        {"label": "c"},
        {"text": "fine", "label": "b"},
    )
    rows = read(open_source(path))
    assert rows.labels == [["a"], ["a", "b"], ["c"], ["b"]]
    assert rows.contents == ["good", "several", "", "fine"]
    assert rows.problems.counts == {
        "not a JSON object": 4,
        "not a text": 1,
        "NUL character": 1,
        "empty label": 1,
        "empty text": 1,
    }
    assert rows.problems.first["not a JSON object"] == f"{path}, line 3"


def test_no_objects_or_a_very_long_line(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"no JSON object in its lines. Give a JSON object a line"):
        open_source(write("[{}]"))
    with pytest.raises(InputError, match="longer than 8,000,000 bytes"):
        open_source(write({"text": "x" * MAX_TEXT_BYTES}))
