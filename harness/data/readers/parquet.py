"""Parquet files, through pyarrow."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.base.reading import damage, opened
from harness.data.options import BuildOptions
from harness.data.readers.columns import choose
from harness.data.readers.records import Block, Problems, RowFormat, Source
from harness.data.readers.rows import collected

_REMEDY = "Give a Parquet file."
_SAMPLE_ROWS = 200
_BATCH_ROWS = 256
"""Number of rows to unpack at a time, which may be long texts."""


class ParquetSource(Source):
    """A column of texts, of lists of strings or of lists of ids, and one of labels or lists of
    labels. Reads only these columns, in batches."""

    def __init__(self, path: Path, options: BuildOptions) -> None:
        from pyarrow import types

        self.path, self.name = path, path.stem
        with _file(path) as file:
            schema = file.schema_arrow
            groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        sample: list[list[str]] = []
        if len(schema.names) == 2:
            cells = itertools.islice(self._cells(schema.names), _SAMPLE_ROWS)
            sample = [list(map(str, row)) for row in cells]
        self._columns = columns = choose(path, schema.names, sample, options)
        self.note = columns.note
        parts = [group.column(index) for group in groups for index in range(group.num_columns)]
        self._num_bytes = sum(
            part.total_uncompressed_size
            for part in parts
            if part.path_in_schema.partition(".")[0] == columns.content
        )
        item = _item_type(schema.field(columns.content).type)
        is_list = _item_type(schema.field(columns.label).type) is not None
        self._form = RowFormat(
            path=path,
            unit="row",
            kind="texts" if item is None else "sets" if types.is_integer(item) else "tokens",
            is_multi_label=is_list or bool(options.label_separator),
            separator=options.label_separator,
        )

    def num_bytes(self) -> int | None:
        """Returns the unpacked size of the content column."""
        return self._num_bytes

    def blocks(self, problems: Problems) -> Iterator[Block]:
        cells = self._cells(self._columns)
        rows = ((number, content, label) for number, (content, label) in enumerate(cells, 1))
        return collected(rows, self._form, problems)

    def _cells(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        with _file(self.path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
                yield from zip(*(batch.column(n).to_pylist() for n in names), strict=True)


@contextlib.contextmanager
def _file(path: Path) -> Iterator[Any]:
    from pyarrow.parquet import ParquetFile  # imported only if there is a file to read

    with (
        opened(path, remedy=_REMEDY) as file,
        damage(path, what="a Parquet file", remedy=_REMEDY),
    ):
        # Reads pieces of each column, not whole row groups.
        yield ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)


def _item_type(type_: Any) -> Any | None:
    """Returns the type of a list's items; None for any other type."""
    from pyarrow import types

    is_list = types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)
    return type_.value_type if is_list else None
