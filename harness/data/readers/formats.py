"""The one entry to readers: what a path is decides who reads it."""

from collections.abc import Callable
from pathlib import Path

from harness.data.readers.classes import ARCHIVES, ClassSource
from harness.data.readers.columns import ColumnOptions
from harness.data.readers.jsonl import JsonlSource
from harness.data.readers.records import Source
from harness.data.readers.table import CsvSource
from harness.errors import InputError
from harness.reading import MAX_UNPACKED_BYTES

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
    max_data_bytes: int = MAX_UNPACKED_BYTES,
) -> Source:
    """A reader of the file or folder at `path`.

    Args:
        path: a table or an archive, by the ending of its name; or a folder of texts.
        text_column, label_column, label_separator: see `ColumnOptions`.
        max_data_bytes: what an archive may unpack to.

    Raises:
        InputError: it is missing or of no known format, or its columns are not plain to see.
    """
    path = Path(path)
    columns = ColumnOptions(
        text_column=text_column, label_column=label_column, label_separator=label_separator
    )
    if table := _TABLES.get(path.suffix.lower()):
        return table(path, columns)
    if path.is_dir() or path.name.lower().endswith(ARCHIVES):
        if columns != ColumnOptions():
            raise InputError(f"{path} has no columns. Leave out the options that name them.")
        return ClassSource(path, max_bytes=max_data_bytes)
    if not path.exists():
        raise InputError(f"No file or folder {path}.")
    known = ", ".join((*_TABLES, *ARCHIVES))
    raise InputError(
        f"{path} is of no known format. Name a folder, or a file that ends in {known}."
    )
