"""Checks of a row's content and labels, whatever file or frame they come from."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from harness.base.checks import INT32_MAX
from harness.data.options import Kind

MAX_TEXT_BYTES = 8_000_000  # a longer row means a wrong file far more often than a long text


class FlawError(Exception):
    """A row is left out, and counted under this message."""


def text(content: Any) -> str:
    if not isinstance(content, str):
        if is_missing(content):
            return ""
        raise FlawError("not a text")
    if len(content) > MAX_TEXT_BYTES:
        raise FlawError(f"text longer than {MAX_TEXT_BYTES:,} characters")
    return "" if content.isspace() else _utf8(content)


def tokens(content: Any) -> Sequence[str]:
    row = _as_list(content)
    if row is None or not all(isinstance(token, str) for token in row):
        raise FlawError("not a list of strings")
    return [_utf8(token) for token in row]


def ids(content: Any) -> Sequence[int] | np.ndarray:
    """Returns a row's ids. An array [n, 2] of ids and weights was checked by its reader."""
    if isinstance(content, np.ndarray) and content.ndim == 2:
        return content
    row = _as_list(content)
    if row is None or not all(type(token) is int and 0 <= token < INT32_MAX for token in row):
        raise FlawError("not a list of ids from 0 to 2,147,483,646")
    return row


def _name(label: Any) -> str:
    if not isinstance(label, str):
        label = plain(label)
        if isinstance(label, list | tuple | dict):
            raise FlawError("several labels")
        if is_missing(label):
            raise FlawError("empty label")
        if isinstance(label, float) and label.is_integer():
            label = int(label)  # how pandas keeps whole numbers where some are missing
        label = str(label)
    if not (label := label.strip()):
        raise FlawError("empty label")
    return _utf8(label)


def names(labels: Any, separator: str | None, *, several: bool) -> list[str]:
    """Returns the names of a row's classes: one, or with `several` any number."""
    if not several:
        return [_name(labels)]
    if separator and isinstance(labels, str):
        labels = [label for label in labels.split(separator) if label.strip()]
    if is_missing(labels):
        raise FlawError("empty label")
    found = _as_list(labels)
    return [_name(label) for label in ([labels] if found is None else found)]


def is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def kind_of(contents: Iterable[Any]) -> Kind:
    """Returns the form of rows by the first of their contents that is not missing or empty."""
    for content in contents:
        row = None if isinstance(content, str) else _as_list(content)
        if row:
            return "tokens" if isinstance(row[0], str) else "sets"
        if row is None:
            break
    return "texts"


def _utf8(text: str) -> str:
    """Returns a text that is valid UTF-8 and a C string."""
    if "\0" in text:
        raise FlawError("NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise FlawError("lone surrogate") from None
    return text


def plain(value: Any) -> Any:
    """Returns an array or number of NumPy, or a series, as Python's own."""
    for convert in ("tolist", "to_list"):
        if hasattr(value, convert):
            return getattr(value, convert)()
    return value


def _as_list(content: Any) -> list[Any] | None:
    """Returns a list; an empty one for a missing value, and None for what is no list."""
    content = plain(content)
    if is_missing(content):
        return []
    return list(content) if isinstance(content, list | tuple) else None
