"""Rows that are in memory already: pandas and polars frames, and SciPy's sparse matrices."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.ragged import RaggedSets
from harness.data.readers.columns import choose
from harness.data.readers.records import Block, Problems, Source
from harness.data.readers.rows import collected, format_of

_SAMPLE_ROWS = 200


def source_of(
    table: Any, options: BuildOptions, *, labels: Sequence[Any] | None = None
) -> Source | None:
    """Returns a reader of a frame, or of a sparse matrix with its labels; None for others."""
    if hasattr(table, "tocsr"):
        return MatrixSource(table, labels)
    return FrameSource(table, options) if hasattr(table, "columns") else None


class FrameSource(Source):
    """A frame of pandas or polars."""

    path, name = Path("frame"), "frame"

    def __init__(self, frame: Any, options: BuildOptions) -> None:
        """Raises InputError unless it is plain which columns to read."""
        by_name = {str(column): column for column in frame.columns}
        if len(by_name) < len(frame.columns):
            raise InputError("the frame has two columns of one name. Give each its own.")
        head = {n: frame[column][:_SAMPLE_ROWS].to_list() for n, column in by_name.items()}
        cells = [list(map(str, row)) for row in zip(*head.values(), strict=True)]
        columns = choose("the frame", list(by_name), cells, options)
        contents, labels = (head[name] for name in columns)
        self._form = format_of("the frame", "row", contents, labels, options.label_separator)
        self.note = columns.note
        self._contents, self._labels = (frame[by_name[name]] for name in columns)

    def num_bytes(self) -> int | None:
        return None

    def blocks(self, problems: Problems) -> Iterator[Block]:
        rows = zip(self._contents.to_list(), self._labels.to_list(), strict=True)
        numbered = ((number, *row) for number, row in enumerate(rows, 1))
        return collected(numbered, self._form, problems)


class MatrixSource(Source):
    """A sparse matrix: columns are ids, values are their weights, unless all are 1."""

    path, name, note = Path("matrix"), "matrix", "ids from the matrix's columns"

    def __init__(self, matrix: Any, labels: Sequence[Any] | None) -> None:
        """Raises InputError for values that are no finite numbers, or unless there is one label
        for each row."""
        self._sets = RaggedSets.from_scipy(matrix)
        if labels is None:
            raise InputError("the matrix has no labels, which training needs. Give some.")
        self._labels = [str(label) for label in labels]
        if len(self._labels) != self._sets.num_rows:
            raise InputError(
                f"the matrix has {self._sets.num_rows} rows, and there are {len(self._labels)} "
                "labels. Give one for each row."
            )

    def num_bytes(self) -> int | None:
        return None

    def blocks(self, problems: Problems) -> Iterator[Block]:
        yield Block(kind="sets", contents=self._sets, is_multi_label=False, labels=self._labels)
