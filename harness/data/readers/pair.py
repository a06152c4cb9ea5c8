"""Two sources as one: rows to train on, and rows to test on."""

from collections.abc import Iterator
from dataclasses import replace

from harness.base.errors import InputError
from harness.data.readers.records import BLOCK_BYTES, Block, Problems, Source, UnreadBlock


class PairSource:
    """All rows of one source to train on, all of another to test on."""

    def __init__(self, train: Source, test: Source) -> None:
        self._train, self._test = train, test
        self.path, self.name = train.path, train.name
        self.note = train.note if train.note == test.note else f"{train.note}; test: {test.note}"

    def num_bytes(self) -> int | None:
        """Of both."""
        train, test = self._train.num_bytes(), self._test.num_bytes()
        return None if train is None or test is None else train + test

    def blocks(
        self, problems: Problems, *, block_bytes: int = BLOCK_BYTES
    ) -> Iterator[Block | UnreadBlock]:
        """Train rows, then test rows.

        Raises:
            InputError: the first source has test rows of its own.
        """
        for block in self._train.blocks(problems, block_bytes=block_bytes):
            if block.part == "test":
                raise InputError(
                    f"{self.path} has test rows of its own. Leave out the other test data."
                )
            yield replace(block, part="train")
        for block in self._test.blocks(problems, block_bytes=block_bytes):
            yield replace(block, part="test")
