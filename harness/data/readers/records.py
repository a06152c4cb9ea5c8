"""The results of every reader: blocks of rows, and a count of the problems in them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from harness.base.errors import InputError
from harness.data.ragged import RaggedSets

Kind = Literal["texts", "tokens", "sets"]
"""Form of a source's rows."""
Part = Literal["train", "test", ""]
"""Use of rows; "" if the source does not say."""

MAX_TEXT_BYTES = 8_000_000
"""Limit of one row's size; a longer row means a wrong file far more often than a long text."""


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """The form of a source's rows."""

    path: Path | str
    """Path of the source, for messages."""
    unit: str
    """Noun for a row in messages, such as "line"."""
    kind: Kind
    is_multi_label: bool
    separator: str | None = None
    """Separator of a row's labels if it has a list of them in one text; None if not."""

    def where(self, number: int | str) -> str:
        return f"{self.path}, {self.unit} {number}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Consecutive rows of a source."""

    kind: Kind
    contents: list[str] | list[Sequence[str]] | RaggedSets
    """Texts, lists of strings, or ids. The num_tokens of ids is the block's own. If all weights of
    a block are 1, it has none, even if another block of the source has some."""
    is_multi_label: bool
    labels: list[Any]
    """Each row's class by name, or its list of names if `is_multi_label`."""
    part: Part = ""
    """Part of all rows of the block."""


@dataclass
class Problems:
    """Counts the problems of single rows of a source, to report them at the end."""

    strict: bool = False
    """Whether the first problem raises an InputError."""
    counts: Counter[str] = field(default_factory=Counter)
    """Number of rows by the kind of problem, such as "invalid UTF-8"."""
    first: dict[str, str] = field(default_factory=dict)
    """Place of the first problem of each kind."""

    def add(self, kind: str, where: str, *, count: int = 1) -> None:
        """Counts a problem."""
        if self.strict:
            raise InputError(f"{where}: {kind}. Correct it, or leave out --strict.")
        self.counts[kind] += count
        self.first.setdefault(kind, where)


class Source(Protocol):
    """Rows that can be read repeatedly, always the same in the same order."""

    path: Path
    name: str
    """The source's name in results."""
    note: str
    """The reader's own findings, such as which columns it takes; or ""."""

    def blocks(self, problems: Problems) -> Iterator[Block]:
        """Yields all rows in the source's order, which may be class by class. Counts problems."""

    def num_bytes(self) -> int | None:
        """Returns about how many bytes of text `blocks` yields, for progress; None if unknown."""
        return self.path.stat().st_size
