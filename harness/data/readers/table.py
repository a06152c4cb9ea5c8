"""CSV and TSV files."""

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from harness.base.errors import InputError
from harness.base.reading import damage, opened
from harness.data.options import BuildOptions
from harness.data.readers.columns import choose, has_header
from harness.data.readers.lines import UTF8_MARK, Lines
from harness.data.readers.plain import cells_of, end_of_rows
from harness.data.readers.records import BLOCK_BYTES, MAX_TEXT_BYTES, Block, Problems, UnreadBlock
from harness.data.readers.rows import Row, RowFormat, blocks_of

_SAMPLE_ROWS = 200
_REMEDY = "Give a table in UTF-8 with a row a line."


class CsvSource:
    """A CSV or TSV file.

    Quotes mean nothing in a TSV file: published corpora have texts that begin with one. In a CSV
    file without a comma in its first line, a semicolon or a tab separates columns.
    """

    def __init__(self, path: Path, options: BuildOptions) -> None:
        """Raises InputError unless it is plain which columns to read."""
        self.path, self.name = path, path.stem
        self._is_tsv = path.suffix.lower() in (".tsv", ".tab")
        self._delimiter = "\t"
        if not self._is_tsv:
            line = next(iter(Lines(path, Problems(), remedy=_REMEDY)), "")
            self._delimiter = next((mark for mark in ",;\t" if mark in line), ",")
        lines = Lines(path, Problems(), remedy=_REMEDY)
        rows = self._rows(lines)
        sample = [cells for _, cells in itertools.islice(rows, 1)]
        if not sample:
            raise InputError(f"{path} has no rows. {_REMEDY}")
        behind_header = lines.offset, lines.number
        sample += [cells for _, cells in itertools.islice(rows, _SAMPLE_ROWS - 1)]
        self._has_header = has_header(sample, options)
        self._begin = behind_header if self._has_header else (0, 0)
        """Start of the rows in bytes, and the number of lines before them."""
        self._width = len(sample[0])
        if self._has_header:
            names = [cell.strip() for cell in sample.pop(0)]
        else:
            names = [str(number + 1) for number in range(self._width)]
        self._columns = choose(path, names, sample, options, has_header=self._has_header)
        self._content = names.index(self._columns.content)
        self._label = names.index(self._columns.label)
        self._format = RowFormat(
            path=path,
            unit="line",
            kind="texts",
            labelling="many" if options.label_separator else "one",
            separator=options.label_separator,
        )

    @property
    def note(self) -> str:
        """Part of a sentence that names the columns, and says if the file has no header."""
        header = "" if self._has_header else ", the file has no header"
        return self._columns.note + header

    def num_bytes(self) -> int | None:
        """Returns the size of the file."""
        return self.path.stat().st_size

    def blocks(
        self, problems: Problems, *, block_bytes: int = BLOCK_BYTES
    ) -> Iterator[UnreadBlock]:
        """Yields all rows that have as many cells as the first, in unread blocks of about
        `block_bytes` of the file, cut between rows. Reading a block parses it and counts its
        problems."""
        begin, number = self._begin
        most = min(block_bytes, MAX_TEXT_BYTES)  # so that no row of a plain block is too long
        with opened(self.path, remedy=_REMEDY) as file:
            while True:
                with damage(self.path, what="a CSV file", remedy=_REMEDY):
                    file.seek(begin)
                    content = file.read(most)
                    if not content:
                        return
                    if begin == 0 and content.startswith(UTF8_MARK):
                        begin, content = len(UTF8_MARK), content.removeprefix(UTF8_MARK)
                    size = end_of_rows(content, self._delimiter, has_quotes=not self._is_tsv)
                    is_plain, end = size > 0, begin + size
                    last = number + content.count(b"\n", 0, size)
                    if not is_plain:
                        end, last = self._end_of_rows(begin, number, begin + len(content))
                read = partial(self._read, begin, end, number, is_plain)
                yield UnreadBlock(num_bytes=end - begin, rows=read)
                begin, number = end, last

    def _end_of_rows(self, begin: int, number: int, stop: int) -> tuple[int, int]:
        """Returns the end, in bytes and in lines, of the last row before `stop`, or of the first
        row if that is longer."""
        found = begin, number
        lines = Lines(self.path, Problems(), remedy=_REMEDY, offset=begin, number=number)
        for _ in self._reader(lines):
            if found[0] > begin and lines.offset > stop:
                break
            found = lines.offset, lines.number
            lines.start_row()
            if lines.offset >= stop:
                break
        return found

    def _read(self, begin: int, end: int, number: int, is_plain: bool, problems: Problems) -> Block:
        """Reads the rows between two places in the file, in bytes, after `number` lines."""
        if is_plain and (found := self._read_plain(begin, end)):
            return found
        lines = Lines(self.path, problems, remedy=_REMEDY, offset=begin, end=end, number=number)
        return self._block(self._labelled(lines), problems)

    def _read_plain(self, begin: int, end: int) -> Block | None:
        """Reads rows as `_read` does, in about half the time; returns None if any has a problem."""
        with (
            opened(self.path, remedy=_REMEDY) as file,
            damage(self.path, what="a CSV file", remedy=_REMEDY),
        ):
            file.seek(begin)
            content = file.read(end - begin)
        cells = cells_of(
            content,
            self._delimiter,
            has_quotes=not self._is_tsv,
            width=self._width,
            columns=[self._content, self._label],
        )
        if cells is None:
            return None
        rows: Iterator[Row] = (("", 0, text, label) for text, label in zip(*cells, strict=True))
        met = Problems()
        block = self._block(rows, met)
        return None if met.counts else block

    def _block(self, rows: Iterable[Row], problems: Problems) -> Block:
        """Returns all rows as one block."""
        blocks = blocks_of(rows, self._format, problems, block_bytes=2 * MAX_TEXT_BYTES)
        return next(blocks, Block(texts=[], labels=[]))

    def _labelled(self, lines: Lines) -> Iterator[Row]:
        for number, cells in self._rows(lines):
            if len(cells) == self._width:
                yield "", number, cells[self._content], cells[self._label]
            else:
                kind = "too few columns" if len(cells) < self._width else "too many columns"
                lines.problems.add(kind, f"{self.path}, line {number}")

    def _rows(self, lines: Lines) -> Iterator[tuple[int, Sequence[str]]]:
        """Yields the number of the last line and the cells of each row; skips blank lines."""
        first = lines.number + 1
        with damage(self.path, what="a CSV file", remedy=_REMEDY):
            for cells in self._reader(lines):
                if lines.at_end and lines.number > first:
                    raise InputError(
                        f"{self.path}: a quote in the row that begins at line {first} is never "
                        "closed. Close it, or double it."
                    )
                first = lines.number + 1
                lines.start_row()
                if cells:
                    yield lines.number, cells

    def _reader(self, lines: Lines) -> Iterator[list[str]]:
        # csv's limit holds for the whole process; `Lines` bounds a row before csv does.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_TEXT_BYTES))
        return csv.reader(
            lines,
            delimiter=self._delimiter,
            quoting=csv.QUOTE_NONE if self._is_tsv else csv.QUOTE_MINIMAL,
        )
