"""The one entry to readers: what a path is decides who reads it."""

from collections.abc import Callable
from pathlib import Path

from harness.base.errors import InputError
from harness.base.reading import MAX_UNPACKED_BYTES
from harness.data.options import BuildOptions
from harness.data.readers.classes import ARCHIVES, ClassSource
from harness.data.readers.jsonl import JsonlSource
from harness.data.readers.pair import PairSource
from harness.data.readers.parquet import ParquetSource
from harness.data.readers.records import Source
from harness.data.readers.svmlight import SvmlightSource, has_id_zero
from harness.data.readers.table import CsvSource

_TABLES: dict[str, Callable[[Path, BuildOptions], Source]] = {
    ".csv": CsvSource,
    ".tsv": CsvSource,
    ".tab": CsvSource,
    ".jsonl": JsonlSource,
    ".ndjson": JsonlSource,
    ".parquet": ParquetSource,
}
_SVMLIGHT = (".svmlight", ".libsvm", ".svm")


def open_source(
    path: str | Path,
    options: BuildOptions | None = None,
    *,
    max_data_bytes: int = MAX_UNPACKED_BYTES,
) -> Source:
    """A reader of the file or folder at `path`.

    Args:
        path: a table or an archive, by the ending of its name; or a folder of texts.
        options: of which a table's columns and the test data count; None: the usual ones.
        max_data_bytes: what an archive may unpack to.

    Raises:
        InputError: it is missing or of no known format, or its columns are not plain to see.
    """
    options = options or BuildOptions()
    paths = [Path(path), *([] if options.test_data is None else [Path(options.test_data)])]
    # The first id of svmlight files is 1 unless one has a 0: the same for both.
    one_based = not any(has_id_zero(p) for p in paths if p.suffix.lower() in _SVMLIGHT)
    first, *others = (_open(path, options, one_based, max_data_bytes) for path in paths)
    return PairSource(first, *others) if others else first


def is_source(path: Path) -> bool:
    """Whether the name of a file is one of these formats', or `path` is a folder."""
    name = path.name.lower()
    return path.is_dir() or name.endswith((*_TABLES, *_SVMLIGHT, *ARCHIVES))


def _open(path: Path, options: BuildOptions, one_based: bool, max_data_bytes: int) -> Source:
    ending = path.suffix.lower()
    if table := _TABLES.get(ending):
        return table(path, options)
    if path.is_dir() or ending in _SVMLIGHT or path.name.lower().endswith(ARCHIVES):
        of_columns = (options.text_column, options.label_column, options.label_separator)
        if any(option is not None for option in of_columns):
            raise InputError(f"{path} has no columns. Leave out the options that name them.")
        if ending in _SVMLIGHT:
            return SvmlightSource(path, one_based=one_based)
        return ClassSource(path, max_bytes=max_data_bytes)
    if not path.exists():
        raise InputError(f"No file or folder {path}.")
    known = ", ".join((*_TABLES, *_SVMLIGHT, *ARCHIVES))
    raise InputError(
        f"{path} is of no known format. Name a folder, or a file that ends in {known}."
    )
