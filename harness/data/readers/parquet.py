"""Parquet files, through pyarrow."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.base.reading import damage, opened
from harness.data.archive import require_unpacked
from harness.data.options import BuildOptions
from harness.data.readers.columns import SAMPLE_ROWS, TableSource
from harness.data.readers.records import Part, Problems

_REMEDY = "Give a Parquet file; to allow more bytes, raise --max-data-bytes."
_TEXT_BYTES = 16  # compressed size of a text below which texts are taken for repeated ones
_BATCH_ROWS = 256  # number of rows to unpack at a time, which may be long texts


class ParquetSource(TableSource):
    """A column of texts or of lists, and one of labels or of lists of labels, read in batches."""

    def __init__(self, path: Path, options: BuildOptions, *, max_bytes: int) -> None:
        from pyarrow import types

        super().__init__(path, path.stem)
        self._max_bytes = max(max_bytes, path.stat().st_size)
        with self._file() as file:
            self._schema = schema = file.schema_arrow
            groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        self._parts = [
            part for group in groups for part in map(group.column, range(group.num_columns))
        ]
        sample: list[Any] = []
        if len(schema.names) == len({*schema.names}) == 2:
            sample = [*itertools.islice(self._cells(schema.names), SAMPLE_ROWS)]
        self.choose(schema.names, sample, options)
        item = _item_type(schema.field(self.content_column).type)
        self.kind = "texts" if item is None else "sets" if types.is_integer(item) else "tokens"
        if _item_type(schema.field(self.label_column).type) is not None:
            self.is_multi_label = True

    def rows(self, problems: Problems) -> Iterator[tuple[int, Any, Any, Part]]:
        cells = self._cells([self.content_column, self.label_column])
        for number, (content, label) in enumerate(cells, 1):
            yield number, content, label, ""

    def _parts_of(self, names: Sequence[str]) -> list[Any]:
        """Returns the metadata of some columns, one for each row group."""
        columns = tuple(f"{name}." for name in names)  # a name may hold dots itself
        return [part for part in self._parts if f"{part.path_in_schema}.".startswith(columns)]

    def _cells(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        from pyarrow.types import is_nested

        # A run of one id in a thousand rows takes few bytes, and so does a long text in all rows.
        parts = self._parts_of(names)
        num_bytes = sum(max(part.total_uncompressed_size, 4 * part.num_values) for part in parts)
        require_unpacked(self.path, num_bytes, most=self._max_bytes, remedy=_REMEDY)
        types = {name: self._schema.field(name).type for name in names}
        # Texts that take so little must be repeated. They are counted as places in a dictionary,
        # before they are unpacked; Arrow cannot read lists of texts in this way.
        repeated = [
            name
            for name in names
            if not is_nested(types[name])
            and any(
                p.total_compressed_size < _TEXT_BYTES * p.num_values for p in self._parts_of([name])
            )
        ]
        num_bytes = 0
        with self._file(read_dictionary=repeated) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
                num_bytes += sum(_unpacked_bytes(batch.column(name)) for name in names)
                require_unpacked(self.path, num_bytes, most=self._max_bytes, remedy=_REMEDY)
                cells = (batch.column(name).cast(types[name]).to_pylist() for name in names)
                yield from zip(*cells, strict=True)

    @contextlib.contextmanager
    def _file(self, **options: Any) -> Iterator[Any]:
        from pyarrow.parquet import ParquetFile  # imported only if there is a file to read

        with (
            opened(self.path, remedy=_REMEDY) as file,
            damage(self.path, what="a Parquet file", remedy=_REMEDY),
        ):
            # Reads pieces of each column, not whole row groups.
            yield ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, **options)


def _item_type(type_: Any) -> Any | None:
    """Returns the type of a list's items; None for any other type."""
    from pyarrow import types

    is_list = types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)
    return type_.value_type if is_list else None


def _unpacked_bytes(column: Any) -> int:
    """Returns the size of a column whose strings are still places in a dictionary."""
    from pyarrow import compute, types

    if not types.is_dictionary(column.type) or types.is_primitive(column.type.value_type):
        return int(column.nbytes)
    lengths = compute.binary_length(column.dictionary)
    return int(compute.sum(lengths.take(column.indices)).as_py() or 0)
