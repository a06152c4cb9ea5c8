"""The fixture of all readers' tests."""

from typing import Any

import pytest

from harness.data.readers.records import Problems, Source, UnreadBlock


class Read:
    """All rows of a source, in one piece."""

    def __init__(
        self, source: Source, *, block_bytes: int = 4_000_000, strict: bool = False
    ) -> None:
        self.problems = Problems(strict=strict)
        self.blocks = [
            block.read(self.problems) if isinstance(block, UnreadBlock) else block
            for block in source.blocks(self.problems, block_bytes=block_bytes)
        ]
        self.parts = [block.part for block in self.blocks for _ in range(block.num_rows)]

    @property
    def contents(self) -> list[Any]:
        """The rows' texts, lists of tokens or lists of ids."""
        rows: list[Any] = []
        for block in self.blocks:
            if block.sets is not None:
                rows += [block.sets.row(index).tolist() for index in range(block.num_rows)]
            else:
                rows += block.texts if block.texts is not None else block.tokens or []
        return rows

    @property
    def labels(self) -> list[Any]:
        """The rows' labels: names, or lists of names."""
        return [label for block in self.blocks for label in block.labels or ()]


@pytest.fixture
def read() -> type[Read]:
    """read(source).contents, .labels, .parts, .problems"""
    return Read
