"""What readers share: the checks of rows, blocks of rows, and a count of the problems in them."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.base.checks import INT32_MAX
from harness.base.errors import InputError
from harness.base.reading import UTF8_MARK
from harness.data.options import Kind
from harness.data.ragged import RaggedSets, splits_of

IN_WORDS: dict[Kind, str] = {"texts": "texts", "tokens": "lists of strings", "sets": "ids"}
Part = Literal["train", "test", ""]  # use of rows; "" if the source does not say

MAX_TEXT_BYTES = 8_000_000  # a longer row means a wrong file far more often than a long text
BLOCK_BYTES = 8_000_000  # size from which a block is complete
_TOKEN_BYTES = 8


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
    if isinstance(content, np.ndarray) and content.ndim == 2:  # with weights, as svmlight checked
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
        if isinstance(label, float) and label.is_integer():
            label = int(label)  # how pandas keeps whole numbers where some are missing
        label = "" if is_missing(label) else str(label)
    if not (label := label.strip()):
        raise FlawError("empty label")
    return _utf8(label)


def class_names(labels: Any, separator: str | None, *, several: bool) -> list[str]:
    """Returns the names of a row's classes: one, or with `several` any number."""
    if not several:
        return [_name(labels)]
    if separator and isinstance(labels, str):
        labels = [label for label in labels.split(separator) if label.strip()]
    found = None if is_missing(labels) else _as_list(labels)
    return [_name(label) for label in ([labels] if found is None else found)]


def is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def kind_of(contents: Iterable[Any]) -> Kind:
    """Returns the form of rows by the first content that is not missing or empty."""
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Consecutive rows of a source."""

    # Texts, lists of strings, or ids. The num_tokens of ids is the block's own. If all weights of a
    # block are 1, it has none, even if another block of the source has some.
    contents: list[str] | list[Sequence[str]] | RaggedSets
    labels: list[list[str]]  # names of each row's classes: one, unless the source is multi-label
    part: Part = ""  # part of all rows of the block


@dataclass
class Problems:
    """Counts the problems of single rows of a source, to report them at the end."""

    strict: bool = False  # whether the first problem raises an InputError
    counts: Counter[str] = field(default_factory=Counter)  # number of rows by problem
    first: dict[str, str] = field(default_factory=dict)  # place of the first problem of each kind

    def add(self, kind: str, where: str, *, count: int = 1) -> None:
        if self.strict:
            raise InputError(f"{where}: {kind}. Correct it, or leave out --strict.")
        self.counts[kind] += count
        self.first.setdefault(kind, where)


class Source:
    """A reader of texts, lists of strings, or ids."""

    unit = "row"  # noun for a row in messages, such as "line"
    kind: Kind = "texts"
    is_multi_label = False  # whether a row may have several classes, or none
    separator: str | None = None  # of a row's labels, if it has them in one text
    class_names: Sequence[str] = ()  # of all classes, where they are known before the rows
    note = ""  # the reader's own findings, such as which columns it takes
    test_path: Path | str | None = None  # of the test rows, if they have a file of their own

    def __init__(self, path: Path | str, name: str) -> None:
        self.path, self.name = path, name

    def rows(self, problems: Problems) -> Iterator[tuple[int | str, Any, Any, Part]]:
        """Yields each row's number or name for messages, content, label or labels, and part."""
        raise NotImplementedError

    def where(self, number: int | str) -> str:
        return f"{self.path}, {self.unit} {number}"

    def blocks(self, problems: Problems) -> Iterator[Block]:
        """Yields all rows in the source's order, which may be class by class. Counts problems."""
        row_bytes = len if self.kind == "texts" else lambda row: _TOKEN_BYTES * len(row)
        for part, rows in itertools.groupby(self._checked(problems), lambda row: row[2]):
            contents: list[Any] = []
            labels: list[list[str]] = []
            num_bytes = 0
            for content, names, _ in rows:
                if num_bytes >= BLOCK_BYTES:
                    yield self._block(contents, labels, part)
                    contents, labels, num_bytes = [], [], 0
                contents.append(content)
                labels.append(names)
                num_bytes += row_bytes(content)
            yield self._block(contents, labels, part)

    def _checked(self, problems: Problems) -> Iterator[tuple[Any, list[str], Part]]:
        """Yields the contents, class names and parts of rows. Rows in another format are left out.
        Empty texts are kept: without them, a test set would have another accuracy."""
        check = {"texts": text, "tokens": tokens, "sets": ids}[self.kind]
        empty = "empty text" if self.kind == "texts" else "empty row"
        for number, content, label, part in self.rows(problems):
            try:
                content = check(content)
                names = class_names(label, self.separator, several=self.is_multi_label)
            except FlawError as flaw:
                problems.add(str(flaw), self.where(number))
                continue
            if len(content) == 0:
                problems.add(empty, self.where(number))
            yield content, names, part

    def _block(self, contents: list[Any], labels: list[list[str]], part: Part) -> Block:
        if self.kind != "sets":
            return Block(contents=contents, labels=labels, part=part)
        weights = None
        if isinstance(contents[0], np.ndarray):  # pairs of id and weight
            flat = np.concatenate(contents)
            ids, weights = flat[:, 0].astype(np.int32), flat[:, 1]
            weights = None if (weights == 1).all() else weights
        else:
            ids = np.fromiter(itertools.chain.from_iterable(contents), np.int32)
        how: dict[str, Any] = {"num_tokens": int(ids.max(initial=0)) + 1, "name": str(self.path)}
        splits = splits_of([*map(len, contents)])
        sets = RaggedSets(values=ids, row_splits=splits, weights=weights, **how)
        return Block(contents=sets, labels=labels, part=part)


def decoded(content: bytes | bytearray, problems: Problems, where: str) -> str:
    """Decodes UTF-8 without its mark; replaces invalid bytes by U+FFFD, and counts the text as a
    problem."""
    try:
        return content.decode().removeprefix(UTF8_MARK)
    except UnicodeDecodeError:
        problems.add("invalid UTF-8, replaced by U+FFFD: save the texts as UTF-8", where)
        return content.decode(errors="replace").removeprefix(UTF8_MARK)
