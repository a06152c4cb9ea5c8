"""The results of every reader: blocks of rows, and a count of the problems in them."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from harness.base.errors import InputError
from harness.data.ragged import RaggedSets

Kind = Literal["texts", "tokens", "sets"]
"""Form of a source's rows."""
Part = Literal["train", "test", ""]
"""Use of rows; "" if the source does not say."""

BLOCK_BYTES = 8_000_000
MAX_TEXT_BYTES = 8_000_000
"""Limit of one row's size; a longer row means a wrong file far more often than a long text."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive rows of a source, with about `block_bytes` of text.

    Exactly one of `texts`, `tokens` and `sets` is set, the same one in every block of a source.
    """

    part: Part = ""
    """Part of all rows of the block."""
    texts: Sequence[str] | None = None
    tokens: Sequence[Sequence[str]] | None = None
    """Rows as lists of strings, such as tags or baskets."""
    sets: RaggedSets | None = None
    """Rows as ids. The num_tokens is the block's own, and the labels are unused. A block whose
    weights are all 1 has none, even if another block of the source has some."""
    labels: Sequence[str] | Sequence[Sequence[str]]
    """Each row's class by name, or a list of names for each row (multi-label)."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        if self.sets is not None:
            return self.sets.num_rows
        return len(self.texts if self.texts is not None else self.tokens or ())

    @property
    def kind(self) -> Kind:
        """Form of the rows: which of the three fields is set."""
        if self.sets is not None:
            return "sets"
        return "texts" if self.texts is not None else "tokens"


@dataclass
class Problems:
    """Counts the problems of single rows of a source, to report them at the end."""

    strict: bool = False
    """Whether the first problem raises an InputError."""
    counts: Counter[str] = field(default_factory=Counter)
    """Number of rows by the kind of problem, such as "invalid UTF-8"."""
    first: dict[str, str] = field(default_factory=dict)
    """Place of the first problem of each kind."""

    def merge(self, others: "Problems") -> None:
        """Adds problems of later rows that were counted separately."""
        self.counts += others.counts
        self.first = others.first | self.first

    def add(self, kind: str, where: str, *, count: int = 1) -> None:
        """Counts a problem.

        Raises:
            InputError: if `strict`.
        """
        if self.strict:
            raise InputError(f"{where}: {kind}. Correct it, or leave out --strict.")
        self.counts[kind] += count
        self.first.setdefault(kind, where)


@dataclass(frozen=True, kw_only=True)
class UnreadBlock:
    """A block of texts that can be read independently of the others, even in another process."""

    num_bytes: int
    """Number of bytes to read."""
    rows: Callable[[Problems], Block]
    """Picklable function that reads the rows."""
    part: Part = ""
    """Part of all rows of the block."""

    def read(self, problems: Problems) -> Block:
        """Reads the block, which may have no rows.

        Raises:
            InputError: the source cannot be read.
        """
        return replace(self.rows(problems), part=self.part)


class Source(Protocol):
    """Rows that can be read repeatedly, always the same in the same order."""

    @property
    def path(self) -> Path:
        """Path of the file or folder."""

    @property
    def name(self) -> str:
        """The source's name in results."""

    @property
    def note(self) -> str:
        """The reader's own findings, such as which columns it takes; or ""."""

    def blocks(
        self, problems: Problems, *, block_bytes: int = BLOCK_BYTES
    ) -> Iterator[Block | UnreadBlock]:
        """Yields all rows in the source's order, which may be class by class. Counts problems here,
        or when an unread block is read.

        Raises:
            InputError: the source cannot be read.
        """

    def num_bytes(self) -> int | None:
        """Returns about how many bytes of text `blocks` yields, for progress; None if unknown."""
