"""Two sources as one: one of train rows and one of test rows."""

from collections.abc import Iterator
from dataclasses import replace

from harness.base.errors import InputError
from harness.data.readers.records import Block, Problems, Source


class PairSource(Source):
    """All rows of one source as train rows, and all rows of another as test rows."""

    def __init__(self, train: Source, test: Source) -> None:
        self._train, self._test = train, test
        self.path, self.name = train.path, train.name
        self.note = train.note if train.note == test.note else f"{train.note}; test: {test.note}"

    def num_bytes(self) -> int | None:
        train, test = self._train.num_bytes(), self._test.num_bytes()
        return None if train is None or test is None else train + test

    def blocks(self, problems: Problems) -> Iterator[Block]:
        for block in self._train.blocks(problems):
            if block.part == "test":
                raise InputError(
                    f"{self.path} has test rows of its own. Leave out the other test data."
                )
            yield replace(block, part="train")
        for block in self._test.blocks(problems):
            yield replace(block, part="test")
