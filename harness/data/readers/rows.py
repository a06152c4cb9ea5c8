"""Rows of any reader, checked one by one and collected into blocks."""

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
"""Of a row: the name of a class, or a list of names."""

_TOKEN_BYTES = 8
"""What a token or an id counts for where a block's size is reckoned."""

Row = tuple[Part, int | str, Any, Any]
"""Its part; its number or name, for messages; its text, tokens or ids; its label or list of
labels."""


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """What each row of a source has."""

    path: Path | str
    """For messages."""
    unit: str
    """What a row's number or name is called: "line"."""
    kind: Kind
    labelling: Labelling
    separator: str | None = None
    """Splits a label into several, where a row has a list of them."""

    def where(self, number: int | str) -> str:
        """For messages."""
        return f"{self.path}, {self.unit} {number}"


def blocks_of(
    rows: Iterable[Row], row_format: RowFormat, problems: Problems, *, block_bytes: int
) -> Iterator[Block]:
    """Collects rows into blocks.

    What is no row of this format is counted and left out. An empty text is counted and kept: a test
    set without it would have another accuracy.
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
    """Rows of ids whose num_tokens is the block's own."""
    num_tokens = int(values.max(initial=0)) + 1
    return RaggedSets(values=values, row_splits=row_splits, num_tokens=num_tokens, name=str(path))


def _text(content: Any) -> tuple[str, str | None]:
    if isinstance(content, str):
        return "" if content.isspace() else content, _flaw(content)
    return "", None if _is_missing(content) else "not a text"


def _flaw(text: str) -> str | None:
    """What keeps a text from being written as UTF-8 or from being one string in C."""
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
        content = content.tolist()  # of NumPy
    elif hasattr(content, "to_list"):
        content = content.to_list()
    if _is_missing(content):
        return []
    return list(content) if isinstance(content, list | tuple) else None


def _name(label: Any) -> tuple[str, str | None]:
    """A label as the name of a class."""
    if not isinstance(label, str):
        if hasattr(label, "tolist"):
            label = label.tolist()  # of NumPy
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
    """One name or a list of names; an empty list is a row of no class."""
    if separator and isinstance(labels, str):
        labels = [label for label in labels.split(separator) if label.strip()]
    if _is_missing(labels):
        return [], "empty label"
    found = _as_list(labels)
    pairs = [_name(label) for label in ([labels] if found is None else found)]
    return [name for name, _ in pairs], next((why for _, why in pairs if why), None)


def kind_of(values: Iterable[Any]) -> Kind:
    """What a column holds, by the first of its values that is not missing or empty."""
    for value in values:
        row = None if isinstance(value, str) else _as_list(value)
        if row:
            return "tokens" if isinstance(row[0], str) else "sets"
        if row is None:
            break
    return "texts"


def labelling_of(labels: Iterable[Any], separator: str | None) -> Labelling:
    """Whether a column holds lists of labels, or what a separator splits into lists."""
    if separator or any(isinstance(label, list | tuple) or _has_rows(label) for label in labels):
        return "many"
    return "one"


def _has_rows(label: Any) -> bool:
    return hasattr(label, "tolist") and isinstance(label.tolist(), list)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
