"""Checks the rows of any reader one by one, and collects them into blocks."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.base.checks import INT32_MAX
from harness.data.ragged import RaggedSets
from harness.data.readers.records import Block, Kind, Part, Problems, RowFormat

BLOCK_BYTES = 8_000_000
"""Size from which a block is complete."""
_TOKEN_BYTES = 8
"""Bytes that a token or an id adds to a block's size."""

Row = tuple[int | str, Any, Any]
"""A row: its number or name for messages, its content, and its label or labels."""


def collected(
    rows: Iterable[Row], form: RowFormat, problems: Problems, part: Part = ""
) -> Iterator[Block]:
    """Collects the right rows of a part into blocks of about BLOCK_BYTES of text."""
    waiting: list[tuple[Any, Any]] = []
    num_bytes = 0
    row_bytes = len if form.kind == "texts" else lambda row: _TOKEN_BYTES * len(row)
    for row in checked(rows, form, problems):
        if num_bytes >= BLOCK_BYTES:
            yield block_of(waiting, form, part)
            waiting, num_bytes = [], 0
        waiting.append(row)
        num_bytes += row_bytes(row[0])
    if waiting:
        yield block_of(waiting, form, part)


def block_of(rows: list[tuple[Any, Any]], form: RowFormat, part: Part = "") -> Block:
    """Returns checked rows, contents and labels, as one block."""
    contents: Any
    contents, labels = map(list, zip(*rows, strict=True))
    if form.kind == "sets":
        values = np.array([token for row in contents for token in row], np.int32)
        splits = np.cumsum([0, *map(len, contents)])
        num_tokens = int(values.max(initial=0)) + 1
        contents = RaggedSets(
            values=values, row_splits=splits, num_tokens=num_tokens, name=str(form.path)
        )
    return Block(
        kind=form.kind,
        contents=contents,
        is_multi_label=form.is_multi_label,
        labels=labels,
        part=part,
    )


def checked(rows: Iterable[Row], form: RowFormat, problems: Problems) -> Iterator[tuple[Any, Any]]:
    """Yields the contents and labels of rows.

    Rows in another format are counted and left out. Empty texts are counted and kept: without them,
    a test set would have another accuracy.
    """
    check, empty = _CHECKS[form.kind]
    for number, content, label in rows:
        content, problem = check(content)
        if problem is None and form.is_multi_label:
            label, problem = _names(label, form.separator)
        elif problem is None:
            label, problem = _name(label)
        if problem is not None:
            problems.add(problem, form.where(number))
            continue
        if not content:
            problems.add(empty, form.where(number))
        yield content, label


def _text(content: Any) -> tuple[str, str | None]:
    if isinstance(content, str):
        return "" if content.isspace() else content, _flaw(content)
    return "", None if _is_missing(content) else "not a text"


def _flaw(text: str) -> str | None:
    """Returns what prevents a text from being valid UTF-8 or a C string; None if nothing."""
    if "\0" in text:
        return "NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "lone surrogate"
    return None


def _tokens(content: Any) -> tuple[Sequence[str], str | None]:
    row = _as_list(content)
    if row is None or not all(isinstance(token, str) for token in row):
        return (), "not a list of strings"
    return row, next((flaw for token in row if (flaw := _flaw(token))), None)


def _ids(content: Any) -> tuple[Sequence[int], str | None]:
    row = _as_list(content)
    if row is None or not all(type(token) is int and 0 <= token < INT32_MAX for token in row):
        return (), "not a list of ids from 0 to 2,147,483,646"
    return row, None


_CHECKS: dict[Kind, Any] = {
    "texts": (_text, "empty text"),
    "tokens": (_tokens, "empty row"),
    "sets": (_ids, "empty row"),
}
"""The check of a row's content, and the problem of an empty one."""


def _as_list(content: Any) -> list[Any] | None:
    if hasattr(content, "tolist"):
        content = content.tolist()  # a NumPy array
    elif hasattr(content, "to_list"):
        content = content.to_list()
    if _is_missing(content):
        return []
    return list(content) if isinstance(content, list | tuple) else None


def _name(label: Any) -> tuple[str, str | None]:
    """Returns a label as the name of a class, and the problem with it, if any."""
    if not isinstance(label, str):
        if hasattr(label, "tolist"):
            label = label.tolist()  # a NumPy scalar or array
        if isinstance(label, list | tuple | dict):
            return "", "several labels"
        if _is_missing(label):
            return "", "empty label"
        if isinstance(label, float) and label.is_integer():
            label = int(label)  # how pandas keeps whole numbers where some are missing
        label = str(label)
    label = label.strip()
    return label, _flaw(label) if label else "empty label"


def _names(labels: Any, separator: str | None) -> tuple[list[str], str | None]:
    """Returns a row's class names, which may be none, and the problem with them, if any."""
    if separator and isinstance(labels, str):
        labels = [label for label in labels.split(separator) if label.strip()]
    if _is_missing(labels):
        return [], "empty label"
    found = _as_list(labels)
    pairs = [_name(label) for label in ([labels] if found is None else found)]
    return [name for name, _ in pairs], next((why for _, why in pairs if why), None)


def format_of(
    path: Path | str,
    unit: str,
    contents: Iterable[Any],
    labels: Iterable[Any],
    separator: str | None,
) -> RowFormat:
    """Returns the form of rows by some of their contents and labels. A content that is not missing
    or empty decides their kind."""
    kind: Kind = "texts"
    for content in contents:
        row = None if isinstance(content, str) else _as_list(content)
        if row:
            kind = "tokens" if isinstance(row[0], str) else "sets"
        if row or row is None:
            break
    plain = (label.tolist() if hasattr(label, "tolist") else label for label in labels)
    has_lists = any(isinstance(label, list | tuple) for label in plain)
    return RowFormat(
        path=path,
        unit=unit,
        kind=kind,
        is_multi_label=has_lists or separator is not None,
        separator=separator,
    )


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
