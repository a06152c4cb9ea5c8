"""CSV and TSV files."""

import csv
import inspect
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.readers.cells import MAX_TEXT_BYTES
from harness.data.readers.columns import SAMPLE_ROWS, TableSource, has_header
from harness.data.readers.records import Part, Problems, lines_of

_REMEDY = "Give a table in UTF-8 with a row a line, and close each quote."


class CsvSource(TableSource):
    """A CSV file, whose columns a comma, a semicolon or a tab separates; or a TSV file, in which
    quotes mean nothing: published corpora have texts that begin with one. Arrow's `open_csv` is
    twice as fast as Python, but takes some 100 MB more memory, and takes the rest of the file for a
    cell where a quote is never closed."""

    unit = "line"

    def __init__(self, path: Path, options: BuildOptions) -> None:
        super().__init__(path, path.stem)
        self._is_tsv = path.suffix.lower() in (".tsv", ".tab")
        marks = ["\t"]
        if not self._is_tsv:
            line = next(lines_of(path, Problems(), remedy=_REMEDY), "")
            marks = [mark for mark in ",;\t" if mark in line] or [","]
        samples = {}
        for mark in marks:
            try:
                samples[mark] = self._sample(mark)
            except InputError:  # before a quote of a text, another mark seems to begin a cell
                if mark == marks[-1] and not samples:
                    raise
        # A mark that only texts hold divides few rows into as many cells as the first row.
        self._delimiter, sample = max(samples.items(), key=lambda item: _num_regular(item[1]))
        if not sample:
            raise InputError(f"{path} has no rows. {_REMEDY}")
        self._width = len(sample[0])
        self._has_header = has_header(sample, options)
        names = [str(number + 1) for number in range(self._width)]
        if self._has_header:
            names = [cell.strip() for cell in sample.pop(0)]
        self.choose(names, sample, options)
        self.note += "" if self._has_header else ", the file has no header"
        self._places = names.index(self.content_column), names.index(self.label_column)

    def _sample(self, delimiter: str) -> list[Sequence[str]]:
        self._delimiter = delimiter
        return [row for _, row in itertools.islice(self._table(Problems()), SAMPLE_ROWS)]

    def rows(self, problems: Problems) -> Iterator[tuple[int, str, str, Part]]:
        """Yields all rows that have as many cells as the first."""
        content, label = self._places
        for number, row in itertools.islice(self._table(problems), int(self._has_header), None):
            if len(row) == self._width:
                yield number, row[content], row[label], ""
            else:
                few_or_many = "few" if len(row) < self._width else "many"
                problems.add(f"too {few_or_many} columns", self.where(number))

    def _table(self, problems: Problems) -> Iterator[tuple[int, Sequence[str]]]:
        """Yields the number of each row's last line, and its cells. Skips blank lines."""
        csv.field_size_limit(max(csv.field_size_limit(), MAX_TEXT_BYTES))  # of the whole process
        quoting: Literal[0, 3] = csv.QUOTE_NONE if self._is_tsv else csv.QUOTE_MINIMAL
        lines = lines_of(self.path, problems, remedy=_REMEDY)
        reader = csv.reader(lines, delimiter=self._delimiter, quoting=quoting)
        end = 0
        try:
            for row in reader:
                begin, end = end + 1, reader.line_num
                if end > begin and inspect.getgeneratorstate(lines) == inspect.GEN_CLOSED:
                    raise InputError(
                        f"{self.path}: a quote in the row that begins at line {begin} is never "
                        "closed. Close it, or double it."
                    )
                if row and not (begin == 1 and row[0] == "sep="):  # a line for Excel alone
                    yield end, row
        except csv.Error as error:
            raise InputError(f"{self.path}, line {reader.line_num}: {error}. {_REMEDY}") from error


def _num_regular(rows: Sequence[Sequence[str]]) -> int:
    """Returns the number of rows that have as many cells as the first, and several."""
    return sum(1 < len(row) == len(rows[0]) for row in rows)
