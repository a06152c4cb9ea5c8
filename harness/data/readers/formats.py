"""The one entry to readers: chooses a reader by a path's kind and name."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harness.base.errors import InputError
from harness.base.reading import MAX_UNPACKED_BYTES
from harness.data.options import BuildOptions
from harness.data.readers.classes import ARCHIVES, ClassSource
from harness.data.readers.jsonl import JsonlSource
from harness.data.readers.parquet import ParquetSource
from harness.data.readers.records import IN_WORDS, Block, Problems, Source
from harness.data.readers.svmlight import SvmlightSource, has_id_zero
from harness.data.readers.table import CsvSource

_TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".parquet")
_SVMLIGHT = (".svmlight", ".libsvm", ".svm")


def open_source(
    path: str | Path,
    options: BuildOptions | None = None,
    *,
    max_data_bytes: int = MAX_UNPACKED_BYTES,
) -> Source:
    """Returns a reader of the file or folder at `path`, and of the test data that `options` name.
    An archive or a Parquet file may unpack to `max_data_bytes`."""
    options = options or BuildOptions()
    paths = [Path(path), *([] if options.test_data is None else [Path(options.test_data)])]
    # The first id of svmlight files is 1, unless the train or the test data has an id 0.
    one_based = not any(has_id_zero(p) for p in paths if p.suffix.lower() in _SVMLIGHT)
    first, *others = (_open(path, options, one_based, max_data_bytes) for path in paths)
    return PairSource(first, *others) if others else first


def is_source(path: Path) -> bool:
    """Whether a path is a folder, or named like a file of one of these formats."""
    name = path.name.lower()
    return path.is_dir() or name.endswith((*_TABLES, *_SVMLIGHT, *ARCHIVES))


def _open(path: Path, options: BuildOptions, one_based: bool, max_data_bytes: int) -> Source:
    ending = path.suffix.lower()
    if not os.path.exists(path):  # Path.exists raises for long names
        raise InputError(f"No file or folder {path}. Name one that is there.")
    if not is_source(path):
        known = ", ".join((*_TABLES, *_SVMLIGHT, *ARCHIVES))
        raise InputError(
            f"{path} is of no known format. Name a folder, or a file that ends in {known}."
        )
    if ending == ".parquet":
        return ParquetSource(path, options, max_bytes=max_data_bytes)
    if ending in _TABLES:
        return JsonlSource(path, options) if "json" in ending else CsvSource(path, options)
    of_columns = (options.text_column, options.label_column, options.label_separator)
    if any(option is not None for option in of_columns):
        raise InputError(f"{path} has no columns. Leave out the options that name them.")
    if ending in _SVMLIGHT:
        return SvmlightSource(path, one_based=one_based)
    return ClassSource(path, max_bytes=max_data_bytes)


class PairSource(Source):
    """All rows of one source as train rows, and all rows of another as test rows."""

    def __init__(self, train: Source, test: Source) -> None:
        super().__init__(train.path, train.name)
        if train.kind != test.kind:
            raise InputError(
                f"{train.path} holds {IN_WORDS[train.kind]}, and {test.path} "
                f"{IN_WORDS[test.kind]}. Give train and test rows of one form."
            )
        self._train, self._test, self.kind = train, test, train.kind
        self.is_multi_label = train.is_multi_label or test.is_multi_label
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
