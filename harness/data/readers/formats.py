"""The one entry to readers: what a path is decides who reads it."""

from collections.abc import Callable
from pathlib import Path

from harness.data.readers.columns import ColumnOptions
from harness.data.readers.jsonl import JsonlSource
from harness.data.readers.records import Source
from harness.data.readers.table import CsvSource
from harness.errors import InputError

_TABLES: dict[str, Callable[[Path, ColumnOptions], Source]] = {
    ".csv": CsvSource,
    ".tsv": CsvSource,
    ".tab": CsvSource,
    ".jsonl": JsonlSource,
    ".ndjson": JsonlSource,
}


def open_source(
    path: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    label_separator: str | None = None,
) -> Source:
    """A reader of the file or folder at `path`.

    Args:
        path: a table, by the ending of its name.
        text_column, label_column, label_separator: see `ColumnOptions`.

    Raises:
        InputError: it is missing or of no known format, or its columns are not plain to see.
    """
    path = Path(path)
    columns = ColumnOptions(
        text_column=text_column, label_column=label_column, label_separator=label_separator
    )
    if table := _TABLES.get(path.suffix.lower()):
        return table(path, columns)
    raise InputError(
        f"{path} is of no known format. Name a file that ends in {', '.join(_TABLES)}."
    )
