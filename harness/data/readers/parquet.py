"""Parquet files, through pyarrow."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.base.reading import damage, opened
from harness.data.options import BuildOptions
from harness.data.readers.columns import choose
from harness.data.readers.records import BLOCK_BYTES, Block, Kind, Problems
from harness.data.readers.rows import Row, RowFormat, blocks_of

_WHAT = "a Parquet file"
_REMEDY = "Give a Parquet file."
_SAMPLE_ROWS = 200
_MAX_BATCH_ROWS = 1 << 14


class ParquetSource:
    """A column of texts, of lists of strings or of lists of ids, and one of labels or lists of
    labels. Reads only these columns, in batches."""

    def __init__(self, path: Path, options: BuildOptions) -> None:
        """Raises InputError unless it is plain which columns to read."""
        self.path, self.name = path, path.stem
        with _file(path) as file:
            schema = file.schema_arrow
            self._num_rows = file.metadata.num_rows
            self._num_bytes = dict.fromkeys(schema.names, 0)
            for column in (
                file.metadata.row_group(group).column(index)
                for group in range(file.num_row_groups)
                for index in range(file.metadata.num_columns)
            ):
                top = column.path_in_schema.partition(".")[0]
                if top in self._num_bytes:
                    self._num_bytes[top] += column.total_uncompressed_size
        sample: list[list[str]] = []
        if len(schema.names) == 2:
            cells = self._cells(schema.names, _SAMPLE_ROWS)
            sample = [list(map(str, row)) for row in itertools.islice(cells, _SAMPLE_ROWS)]
        self._columns = columns = choose(path, schema.names, sample, options)
        self.note = columns.note
        separator = options.label_separator
        is_list = _item_type(schema.field(columns.label).type) is not None
        self._format = RowFormat(
            path=path,
            unit="row",
            kind=_kind(schema.field(columns.content).type),
            labelling="many" if is_list or separator else "one",
            separator=separator,
        )

    def num_bytes(self) -> int | None:
        """Returns the unpacked size of the content column."""
        return self._num_bytes[self._columns.content]

    def blocks(self, problems: Problems, *, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
        """Yields all rows."""
        return blocks_of(self._rows(block_bytes), self._format, problems, block_bytes=block_bytes)

    def _rows(self, block_bytes: int) -> Iterator[Row]:
        content, label = self._columns.content, self._columns.label
        row_bytes = max(1, self._num_bytes[content] // max(1, self._num_rows))
        batch_rows = min(max(1, block_bytes // row_bytes), _MAX_BATCH_ROWS)
        for number, cells in enumerate(self._cells([content, label], batch_rows), 1):
            yield "", number, *cells

    def _cells(self, names: list[str], batch_rows: int) -> Iterator[tuple[Any, ...]]:
        with _file(self.path) as file:
            batches = file.iter_batches(batch_size=batch_rows, columns=names, use_threads=False)
            for batch in batches:
                yield from zip(*(batch.column(n).to_pylist() for n in names), strict=True)


@contextlib.contextmanager
def _file(path: Path) -> Iterator[Any]:
    from pyarrow.parquet import ParquetFile  # imported only if there is a file to read

    with opened(path, remedy=_REMEDY) as file, damage(path, what=_WHAT, remedy=_REMEDY):
        # Reads pieces of each column, not whole row groups.
        yield ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)


def _kind(type_: Any) -> Kind:
    from pyarrow import types

    item = _item_type(type_)
    if item is None:
        return "texts"
    return "sets" if types.is_integer(item) else "tokens"


def _item_type(type_: Any) -> Any | None:
    """Returns the type of a list's items; None for any other type."""
    from pyarrow import types

    is_list = types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)
    return type_.value_type if is_list else None
