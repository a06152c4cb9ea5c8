"""Parquet files, through pyarrow."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.base.archive import require_unpacked
from harness.base.reading import damage, opened
from harness.data.options import BuildOptions
from harness.data.readers.columns import SAMPLE_ROWS, TableSource
from harness.data.readers.records import Part, Problems

_REMEDY = "Give a Parquet file; to allow more bytes, raise --max-data-bytes."
_TEXT_BYTES = 16  # compressed size of a text below which texts are taken for repeated ones
_BATCH_ROWS = 256  # number of rows to unpack at a time, which may be long texts


class ParquetSource(TableSource):
    """A column of texts or of lists, and one of labels or of lists of labels, read in batches."""

    def __init__(self, path: Path, options: BuildOptions, *, max_bytes: int) -> None:
        from pyarrow.types import is_integer

        super().__init__(path, path.stem)
        self._max_bytes = max(max_bytes, path.stat().st_size)
        with self._file() as file:
            schema = file.schema_arrow
        sample: list[Any] = []
        if len(schema.names) == len({*schema.names}) == 2:
            sample = [*itertools.islice(self._cells(schema.names), SAMPLE_ROWS)]
        self.choose(schema.names, sample, options)
        content, label = (schema.field(n).type for n in (self.content_column, self.label_column))
        item = getattr(content, "value_field", None)  # of lists alone
        self.kind = "texts" if item is None else "sets" if is_integer(item.type) else "tokens"
        self.is_multi_label |= hasattr(label, "value_field")

    def rows(self, problems: Problems) -> Iterator[tuple[int, Any, Any, Part]]:
        cells = self._cells([self.content_column, self.label_column])
        for number, (content, label) in enumerate(cells, 1):
            yield number, content, label, ""

    def _cells(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        columns = tuple(f"{name}." for name in names)  # a name may hold dots itself
        with self._file() as file:
            groups = map(file.metadata.row_group, range(file.num_row_groups))
            parts = [g.column(i) for g in groups for i in range(g.num_columns)]
            parts = [p for p in parts if f"{p.path_in_schema}.".startswith(columns)]
            # A run of one id in a thousand rows takes few bytes, and so does a long text in all.
            num_bytes = sum(max(p.total_uncompressed_size, 4 * p.num_values) for p in parts)
            require_unpacked(self.path, num_bytes, most=self._max_bytes, remedy=_REMEDY)
            # Texts that take so little must be repeated: each may be as long as all of them.
            repeated = [p for p in parts if p.total_compressed_size < _TEXT_BYTES * p.num_values]
            longest = max((p.total_uncompressed_size for p in repeated), default=1)
            num_rows, num_bytes = min(_BATCH_ROWS, max(1, self._max_bytes // longest)), 0
            for batch in file.iter_batches(num_rows, columns=names, use_threads=False):
                found = [batch.column(name) for name in names]
                found = [c.dictionary_decode() if hasattr(c, "dictionary") else c for c in found]
                num_bytes += sum(column.nbytes for column in found)
                require_unpacked(self.path, num_bytes, most=self._max_bytes, remedy=_REMEDY)
                yield from zip(*(column.to_pylist() for column in found), strict=True)

    @contextlib.contextmanager
    def _file(self) -> Iterator[Any]:
        from pyarrow.parquet import ParquetFile  # imported only if there is a file to read

        with (
            opened(self.path, remedy=_REMEDY) as file,
            damage(self.path, what="a Parquet file", remedy=_REMEDY),
        ):
            # Reads pieces of each column, not whole row groups.
            yield ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
