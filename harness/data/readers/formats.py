"""The one entry to readers: chooses one by a path's kind and name; and those of rows in memory."""

import os
from collections.abc import Iterator
from operator import methodcaller
from pathlib import Path
from typing import Any

from harness.base.errors import InputError
from harness.base.reading import MAX_UNPACKED_BYTES
from harness.data.options import BuildOptions
from harness.data.readers.classes import ARCHIVES, ClassSource
from harness.data.readers.columns import SAMPLE_ROWS, TableSource
from harness.data.readers.lines import CsvSource, JsonlSource, SvmlightSource
from harness.data.readers.parquet import ParquetSource
from harness.data.readers.records import IN_WORDS, Part, Problems, Source, plain

TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".parquet")
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
    first, *others = (_open(path, options, max_data_bytes) for path in paths)
    return PairSource(first, *others) if others else first


def _open(path: Path, options: BuildOptions, max_data_bytes: int) -> Source:
    ending = path.suffix.lower()
    if not os.path.exists(path):  # Path.exists raises for long names
        raise InputError(f"No file or folder {path}. Name one that is there.")
    if not (path.is_dir() or path.name.lower().endswith((*TABLES, *_SVMLIGHT, *ARCHIVES))):
        raise InputError(
            f"{path} has no ending of a format that can be read; save a table as .csv (UTF-8), "
            ".tsv, .jsonl or .parquet, texts as a folder or .zip of folders, ids as .svm, or for "
            "`train` and `data convert` as .npz."
        )
    if ending == ".parquet":
        return ParquetSource(path, options, max_bytes=max_data_bytes)
    if ending in TABLES:
        return JsonlSource(path, options) if "json" in ending else CsvSource(path, options)
    of_columns = (options.text_column, options.label_column, options.label_separator)
    if any(option is not None for option in of_columns):
        raise InputError(f"{path} has no columns. Leave out the options that name them.")
    if ending in _SVMLIGHT:
        return SvmlightSource(path)
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
        self.separator, self.test_path = train.separator, test.path
        self.is_multi_label = train.is_multi_label or test.is_multi_label
        self.note = train.note if train.note == test.note else f"{train.note}; test: {test.note}"

    def where(self, number: Any) -> str:
        source, number = number
        return str(source.where(number))

    def rows(self, problems: Problems) -> Iterator[tuple[Any, Any, Any, Part]]:
        parts: list[tuple[Source, Part]] = [(self._train, "train"), (self._test, "test")]
        for source, part in parts:
            for number, content, label, own in source.rows(problems):
                if (part, own) == ("train", "test"):
                    raise InputError(
                        f"{self.path} has test rows of its own. Leave out the other test data."
                    )
                yield (source, number), content, label, part


class FrameSource(TableSource):
    def __init__(self, frame: Any, options: BuildOptions) -> None:
        super().__init__("the frame", "frame")
        is_arrow = hasattr(frame, "column_names")  # its columns do not know theirs
        columns = frame.column_names if is_arrow else frame.columns
        self._cells = methodcaller("to_pylist" if is_arrow else "to_list")
        self._columns = {str(column): column for column in columns}
        if len(self._columns) < len(columns):
            raise InputError("the frame has two columns of one name. Give each its own.")
        self._frame = frame
        head = (self._cells(frame[column][:SAMPLE_ROWS]) for column in self._columns.values())
        self.choose(list(self._columns), [*zip(*head, strict=True)], options)

    def rows(self, problems: Problems) -> Iterator[tuple[int, Any, Any, Part]]:
        names = self.content_column, self.label_column
        lists = (map(plain, self._cells(self._frame[self._columns[name]])) for name in names)
        for number, (content, label) in enumerate(zip(*lists, strict=True), 1):
            yield number, content, label, ""
