"""What every reader gives: blocks of rows, and a count of the problems that it met."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from harness.base.errors import InputError
from harness.data.ragged import RaggedSets

Kind = Literal["texts", "tokens", "sets"]
"""What the rows of a source are."""
Part = Literal["train", "test", ""]
"""What rows are for; "" where the source does not say."""

BLOCK_BYTES = 8_000_000
MAX_TEXT_BYTES = 8_000_000
"""Of one row. A longer one is a wrong file far more often than a text."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some rows of a source, in its order: about `block_bytes` of text.

    One of `texts`, `tokens` and `sets` is given, the same one in every block of a source.
    """

    part: Part = ""
    """Of all rows of the block."""
    texts: Sequence[str] | None = None
    tokens: Sequence[Sequence[str]] | None = None
    """Rows that are lists of strings, such as tags or baskets."""
    sets: RaggedSets | None = None
    """Rows that are ids already. Its num_tokens is the block's own, its labels are unused, and it
    has no weights where all are 1: another block of the source may have some."""
    labels: Sequence[str] | Sequence[Sequence[str]]
    """The name of a class for each row; or a list of names for each row (multi-label)."""

    @property
    def num_rows(self) -> int:
        """B."""
        if self.sets is not None:
            return self.sets.num_rows
        return len(self.texts if self.texts is not None else self.tokens or ())

    @property
    def kind(self) -> Kind:
        """Which of the three is given."""
        if self.sets is not None:
            return "sets"
        return "texts" if self.texts is not None else "tokens"


@dataclass
class Problems:
    """Counts what is wrong with single rows of a source, to be reported at the end."""

    strict: bool = False
    """Raise an InputError at the first."""
    counts: Counter[str] = field(default_factory=Counter)
    """Rows by the kind of problem, as in "invalid UTF-8"."""
    first: dict[str, str] = field(default_factory=dict)
    """By kind: where the first was."""

    def merge(self, others: "Problems") -> None:
        """Adds what was counted apart, of rows behind these."""
        self.counts += others.counts
        self.first = others.first | self.first

    def add(self, kind: str, where: str, *, count: int = 1) -> None:
        """Counts a problem.

        Raises:
            InputError: when strict.
        """
        if self.strict:
            raise InputError(f"{where}: {kind}. Correct it, or leave out --strict.")
        self.counts[kind] += count
        self.first.setdefault(kind, where)


@dataclass(frozen=True, kw_only=True)
class UnreadBlock:
    """Texts of a source that can be read apart from its others, in another process too."""

    num_bytes: int
    """To read."""
    rows: Callable[[Problems], Block]
    """Reads them; can be pickled."""
    part: Part = ""
    """Of all rows of the block."""

    def read(self, problems: Problems) -> Block:
        """The block, which may have no rows.

        Raises:
            InputError: the source cannot be read.
        """
        return replace(self.rows(problems), part=self.part)


class Source(Protocol):
    """Rows that can be read any number of times, each time the same in the same order."""

    @property
    def path(self) -> Path:
        """The file or folder."""

    @property
    def name(self) -> str:
        """For results."""

    @property
    def note(self) -> str:
        """What the reader found out by itself, such as which columns it takes; or ""."""

    def blocks(
        self, problems: Problems, *, block_bytes: int = BLOCK_BYTES
    ) -> Iterator[Block | UnreadBlock]:
        """All rows, in the source's order, which may be class by class. Problems are counted here,
        or where an unread block is read.

        Raises:
            InputError: the source cannot be read.
        """

    def num_bytes(self) -> int | None:
        """About how many bytes of text `blocks` gives, for a progress bar; None: not known."""
