"""The fixture of all readers' tests."""

from typing import Any

import pytest

from harness.data.ragged import RaggedSets
from harness.data.readers import records
from harness.data.readers.records import Problems, Source


class Read:
    """All rows of a source, in one piece."""

    def __init__(
        self, source: Source, *, block_bytes: int | None = None, strict: bool = False
    ) -> None:
        self.problems = Problems(strict=strict)
        self.parts: list[str] = []
        self.contents: list[Any] = []
        """The rows' texts, lists of tokens or lists of ids."""
        self.labels: list[Any] = []
        """The rows' labels: names, or lists of names."""
        self.num_rows: list[int] = []
        """The blocks' numbers of rows."""
        self.sets: list[RaggedSets] = []
        """The blocks of ids."""
        with pytest.MonkeyPatch.context() as patched:
            if block_bytes:
                patched.setattr(records, "BLOCK_BYTES", block_bytes)
            blocks = list(source.blocks(self.problems))
        for block in blocks:
            contents: Any = block.contents
            if isinstance(contents, RaggedSets):
                self.sets.append(contents)
                contents = [contents.row(index).tolist() for index in range(contents.num_rows)]
            self.contents += contents
            several = source.is_multi_label
            self.labels += block.labels if several else [name for (name,) in block.labels]
            self.parts += [block.part] * len(contents)
            self.num_rows.append(len(contents))


@pytest.fixture
def read() -> type[Read]:
    """read(source).contents, .labels, .parts, .problems"""
    return Read
