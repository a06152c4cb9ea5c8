"""CSV and TSV files."""

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.data.readers.columns import ColumnOptions, choose, has_header
from harness.data.readers.lines import Lines
from harness.data.readers.records import BLOCK_BYTES, MAX_TEXT_BYTES, Block, Problems
from harness.data.readers.rows import Labelling, Row, RowFormat, blocks_of
from harness.errors import InputError
from harness.reading import damage

_SAMPLE_ROWS = 200
_REMEDY = "Give a table in UTF-8 with a row a line."


class CsvSource:
    """A CSV or TSV file.

    A TSV file is read without quotes, as such corpora are published: a text may begin with one. In
    a CSV file without a comma in its first line, a semicolon or a tab separates columns.
    """

    def __init__(self, path: Path, options: ColumnOptions) -> None:
        """Raises InputError unless it is plain which columns to read."""
        self.path, self.name, self._options = path, path.stem, options
        self._is_tsv = path.suffix.lower() in (".tsv", ".tab")
        self._delimiter = "\t"
        if not self._is_tsv:
            line = next(iter(Lines(path, Problems(), remedy=_REMEDY)), "")
            self._delimiter = next((mark for mark in ",;\t" if mark in line), ",")
        sample = [cells for _, cells in itertools.islice(self._rows(Problems()), _SAMPLE_ROWS)]
        if not sample:
            raise InputError(f"{path} has no rows. {_REMEDY}")
        self._has_header = has_header(sample, options)
        self._width = len(sample[0])
        if self._has_header:
            names = [cell.strip() for cell in sample.pop(0)]
        else:
            names = [str(number + 1) for number in range(self._width)]
        self._columns = choose(path, names, sample, options, has_header=self._has_header)
        self._content = names.index(self._columns.content)
        self._label = None if self._columns.label is None else names.index(self._columns.label)

    @property
    def note(self) -> str:
        """Which columns are read."""
        header = "" if self._has_header else ", the file has no header"
        return self._columns.note + header

    def num_bytes(self) -> int | None:
        """Of the file."""
        return self.path.stat().st_size

    def blocks(self, problems: Problems, *, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
        """All rows that have as many cells as the first."""
        separator = self._options.label_separator
        labelling: Labelling = "many" if separator else "one"
        row_format = RowFormat(
            path=self.path,
            unit="line",
            kind="texts",
            labelling="none" if self._label is None else labelling,
            separator=separator,
        )
        return blocks_of(self._labelled(problems), row_format, problems, block_bytes=block_bytes)

    def _labelled(self, problems: Problems) -> Iterator[Row]:
        content, label, width = self._content, self._label, self._width
        for number, cells in itertools.islice(self._rows(problems), int(self._has_header), None):
            if len(cells) == width:
                yield "", number, cells[content], None if label is None else cells[label]
            else:
                kind = "too few columns" if len(cells) < width else "too many columns"
                problems.add(kind, f"{self.path}, line {number}")

    def _rows(self, problems: Problems) -> Iterator[tuple[int, Sequence[str]]]:
        """Number of the last line and cells of each row; blank lines are none."""
        # The module's limit is the process's; `Lines` bounds a row before it does.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_TEXT_BYTES))
        lines = Lines(self.path, problems, remedy=_REMEDY)
        table = csv.reader(
            lines,
            delimiter=self._delimiter,
            quoting=csv.QUOTE_NONE if self._is_tsv else csv.QUOTE_MINIMAL,
        )
        first = 1
        with damage(self.path, what="a CSV file", remedy=_REMEDY):
            for cells in table:
                if lines.at_end and lines.number > first and lines.quotes % 2:
                    raise InputError(
                        f"{self.path}: a quote in the row that begins at line {first} is never "
                        "closed. Close it, or double it."
                    )
                first = lines.number + 1
                lines.start_row()
                if cells:
                    yield lines.number, cells
