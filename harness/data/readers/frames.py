"""Rows that are in memory already: pandas and polars frames, and SciPy's sparse matrices."""

from collections.abc import Iterator, Sequence
from typing import Any

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.ragged import RaggedSets
from harness.data.readers import cells
from harness.data.readers.columns import SAMPLE_ROWS, TableSource
from harness.data.readers.records import Block, Part, Problems, Source


def source_of(
    table: Any, options: BuildOptions, *, labels: Sequence[Any] | None = None
) -> Source | None:
    """Returns a reader of a frame, or of a sparse matrix with its labels; None for others."""
    if hasattr(table, "tocsr"):
        return MatrixSource(table, labels)
    return FrameSource(table, options) if hasattr(table, "columns") else None


class FrameSource(TableSource):
    def __init__(self, frame: Any, options: BuildOptions) -> None:
        super().__init__("the frame", "frame")
        self._columns = {str(column): column for column in frame.columns}
        if len(self._columns) < len(frame.columns):
            raise InputError("the frame has two columns of one name. Give each its own.")
        self._frame = frame
        head = (frame[column][:SAMPLE_ROWS].to_list() for column in self._columns.values())
        self.choose(list(self._columns), [*zip(*head, strict=True)], options)

    def rows(self, problems: Problems) -> Iterator[tuple[int, Any, Any, Part]]:
        names = self.content_column, self.label_column
        lists = (map(cells.plain, self._frame[self._columns[name]].to_list()) for name in names)
        for number, (content, label) in enumerate(zip(*lists, strict=True), 1):
            yield number, content, label, ""


class MatrixSource(Source):
    """A sparse matrix: columns are ids, values are their weights, unless all are 1."""

    kind = "sets"
    note = "ids from the matrix's columns"

    def __init__(self, matrix: Any, labels: Sequence[Any] | None) -> None:
        super().__init__("the matrix", "matrix")
        self._sets = RaggedSets.from_scipy(matrix)
        if labels is None:
            raise InputError("the matrix has no labels, which training needs. Give some.")
        self._labels = [[str(label)] for label in labels]
        if len(self._labels) != self._sets.num_rows:
            raise InputError(
                f"the matrix has {self._sets.num_rows} rows, and there are {len(self._labels)} "
                "labels. Give one for each row."
            )

    def blocks(self, problems: Problems) -> Iterator[Block]:
        yield Block(contents=self._sets, labels=self._labels)
