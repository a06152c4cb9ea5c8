"""CSV and TSV files."""

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from harness.base.errors import InputError
from harness.base.reading import damage
from harness.data.options import BuildOptions
from harness.data.readers.columns import choose, has_header
from harness.data.readers.lines import lines_of, too_long
from harness.data.readers.records import MAX_TEXT_BYTES, Block, Problems, RowFormat, Source
from harness.data.readers.rows import BLOCK_BYTES, Row, block_of, checked

_SAMPLE_ROWS = 200
_REMEDY = "Give a table in UTF-8 with a row a line."


class CsvSource(Source):
    """A CSV or TSV file.

    Quotes mean nothing in a TSV file: published corpora have texts that begin with one. In a CSV
    file without a comma in its first line, a semicolon or a tab separates columns.

    Python parses it. Arrow's `open_csv` is twice as fast, but takes some 100 MB more memory, and
    takes the rest of the file for a cell where a quote is never closed.
    """

    def __init__(self, path: Path, options: BuildOptions) -> None:
        self.path, self.name = path, path.stem
        self._is_tsv = path.suffix.lower() in (".tsv", ".tab")
        self._delimiter = "\t"
        if not self._is_tsv:
            line = next((line for _, _, line in lines_of(path, Problems(), remedy=_REMEDY)), "")
            self._delimiter = next((mark for mark in ",;\t" if mark in line), ",")
        rows = (cells for _, _, cells in self._rows(Problems()) if cells)
        sample = list(itertools.islice(rows, _SAMPLE_ROWS))
        if not sample:
            raise InputError(f"{path} has no rows. {_REMEDY}")
        self._has_header = has_header(sample, options)
        self._width = len(sample[0])
        if self._has_header:
            names = [cell.strip() for cell in sample.pop(0)]
        else:
            names = [str(number + 1) for number in range(self._width)]
        columns = choose(path, names, sample, options, has_header=self._has_header)
        self.note = columns.note + ("" if self._has_header else ", the file has no header")
        self._content, self._label = (names.index(name) for name in columns)
        self._form = RowFormat(
            path=path,
            unit="line",
            kind="texts",
            is_multi_label=bool(options.label_separator),
            separator=options.label_separator,
        )

    def blocks(self, problems: Problems) -> Iterator[Block]:
        """Yields all rows that have as many cells as the first, in blocks of as many rows as end
        within BLOCK_BYTES of the file."""
        rows = self._rows(problems)
        start = end = 0  # of the block and of the last row, in bytes
        if self._has_header:
            start = end = next(end for _, end, cells in rows if cells)

        def labelled() -> Iterator[Row]:
            nonlocal start, end
            for number, row_end, cells in rows:
                if row_end > start + BLOCK_BYTES:
                    start = end
                end = row_end
                if len(cells) == self._width:
                    yield number, cells[self._content], cells[self._label]
                elif cells:
                    few_or_many = "few" if len(cells) < self._width else "many"
                    problems.add(f"too {few_or_many} columns", self._form.where(number))

        found = checked(labelled(), self._form, problems)
        for _, group in itertools.groupby(found, lambda _: start):
            yield block_of(list(group), self._form)

    def _rows(self, problems: Problems) -> Iterator[tuple[int, int, Sequence[str]]]:
        """Yields the number and the end of each row's last line, and its cells; none of a blank
        line."""
        place = before = (0, 0)  # the number and the end of the last line, and of the last row
        at_end = False

        def lines() -> Iterator[str]:
            nonlocal place, at_end
            for number, end, line in lines_of(self.path, problems, remedy=_REMEDY):
                place = number, end
                if end - before[1] > MAX_TEXT_BYTES:
                    where = f"line {number}: the row that ends here or later"
                    raise too_long(self.path, where, _REMEDY)
                yield line
            at_end = True

        # csv's limit holds for the whole process; `lines` bounds a row before csv does.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_TEXT_BYTES))
        quoting: Literal[0, 3] = csv.QUOTE_NONE if self._is_tsv else csv.QUOTE_MINIMAL
        with damage(self.path, what="a CSV file", remedy=_REMEDY):
            for cells in csv.reader(lines(), delimiter=self._delimiter, quoting=quoting):
                if at_end and place[0] > before[0] + 1:
                    raise InputError(
                        f"{self.path}: a quote in the row that begins at line {before[0] + 1} is "
                        "never closed. Close it, or double it."
                    )
                yield *place, cells
                before = place
