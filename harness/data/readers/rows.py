"""Checks the rows of any reader one by one, and collects them into blocks."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.base.checks import INT32_MAX
from harness.data.ragged import RaggedSets
from harness.data.readers.records import Block, Kind, Part, Problems

Labelling = Literal["one", "many"]
"""Whether a row has the name of one class, or a list of names."""

_TOKEN_BYTES = 8
"""Bytes that a token or an id adds to a block's size."""

Row = tuple[Part, int | str, Any, Any]
"""A row: its part, its number or name for messages, its content, and its label or labels."""


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """The form of a source's rows."""

    path: Path | str
    """Path of the source, for messages."""
    unit: str
    """Noun for a row in messages, such as "line"."""
    kind: Kind
    labelling: Labelling
    separator: str | None = None
    """Separator of a row's labels if it has a list of them in one text; None if not."""

    def where(self, number: int | str) -> str:
        """Returns a row's place, for messages."""
        return f"{self.path}, {self.unit} {number}"


def blocks_of(
    rows: Iterable[Row], row_format: RowFormat, problems: Problems, *, block_bytes: int
) -> Iterator[Block]:
    """Collects rows into blocks.

    Rows in another format are counted and left out. Empty texts are counted and kept: without them,
    a test set would have another accuracy.
    """
    kind, labelling, separator = row_format.kind, row_format.labelling, row_format.separator
    check, weight = _CHECKS[kind], 1 if kind == "texts" else _TOKEN_BYTES
    part: Part = ""
    contents: list[Any] = []
    labels: list[Any] = []
    num_bytes = 0
    for row_part, number, content, label in rows:
        content, problem = check(content)
        if problem is None:
            label, problem = _name(label) if labelling == "one" else _names(label, separator)
        if problem is not None:
            problems.add(problem, row_format.where(number))
            continue
        if not content:
            problems.add(_EMPTY[kind], row_format.where(number))
        if contents and (row_part != part or num_bytes >= block_bytes):
            yield _block(part, row_format, contents, labels)
            contents, labels, num_bytes = [], [], 0
        part = row_part
        contents.append(content)
        labels.append(label)
        num_bytes += weight * len(content)
    if contents:
        yield _block(part, row_format, contents, labels)


def _block(part: Part, row_format: RowFormat, contents: list[Any], labels: list[Any]) -> Block:
    if row_format.kind == "texts":
        return Block(part=part, texts=contents, labels=labels)
    if row_format.kind == "tokens":
        return Block(part=part, tokens=contents, labels=labels)
    values = np.array([token for row in contents for token in row], np.int32)
    sets = sets_of(values, np.cumsum([0, *map(len, contents)]), row_format.path)
    return Block(part=part, sets=sets, labels=labels)


def sets_of(values: np.ndarray, row_splits: np.ndarray, path: Path | str) -> RaggedSets:
    """Returns rows of ids whose num_tokens is the block's own."""
    num_tokens = int(values.max(initial=0)) + 1
    return RaggedSets(values=values, row_splits=row_splits, num_tokens=num_tokens, name=str(path))


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


_EMPTY: dict[Kind, str] = {"texts": "empty text", "tokens": "empty row", "sets": "empty row"}
_CHECKS: dict[Kind, Any] = {"texts": _text, "tokens": _tokens, "sets": _ids}


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


def kind_of(values: Iterable[Any]) -> Kind:
    """Returns a column's kind, by its first value that is not missing or empty."""
    for value in values:
        row = None if isinstance(value, str) else _as_list(value)
        if row:
            return "tokens" if isinstance(row[0], str) else "sets"
        if row is None:
            break
    return "texts"


def labelling_of(labels: Iterable[Any], separator: str | None) -> Labelling:
    """Returns whether a column holds lists of labels, or texts for a separator to split."""
    if separator or any(isinstance(label, list | tuple) or _has_rows(label) for label in labels):
        return "many"
    return "one"


def _has_rows(label: Any) -> bool:
    return hasattr(label, "tolist") and isinstance(label.tolist(), list)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
