"""Files with a row in each line: CSV and TSV, JSONL, and svmlight."""

import csv
import itertools
import json
import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.base.checks import INT32_MAX
from harness.base.errors import InputError
from harness.base.reading import damage, opened, require_text
from harness.data.options import BuildOptions
from harness.data.readers.columns import SAMPLE_ROWS, TableSource, has_header
from harness.data.readers.records import MAX_TEXT_BYTES, Part, Problems, Source, decoded

_OF_TABLES = "Give a table in UTF-8 with a row a line, and close each quote."
_OF_OBJECTS = "Give a JSON object a line."
_OF_IDS = "Give a file with `label id:value id:value ...` in each line."
_SAMPLE_LINES = 1000
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_PAIRS = re.compile(rf"(?:\+?[0-9]+:{_NUMBER}(?:\s+|$))*", re.ASCII)


def lines_of(path: Path | str, problems: Problems, *, remedy: str) -> Generator[str, None, None]:
    """Yields the lines of a UTF-8 file with their breaks; counts and replaces invalid UTF-8."""
    with opened(path, remedy=remedy) as file, damage(path, what="a text file", remedy=remedy):
        require_text(file.peek(1), path, remedy=remedy)
        number = 0
        while line := file.readline(MAX_TEXT_BYTES + 1):
            number += 1
            if len(line) > MAX_TEXT_BYTES:
                raise InputError(
                    f"{path}, line {number} is longer than {MAX_TEXT_BYTES:,} bytes. {remedy}"
                )
            yield decoded(line, problems, f"{path}, line {number}")


class CsvSource(TableSource):
    """A CSV file, whose columns a comma, a semicolon or a tab separates; or a TSV file, in which
    quotes mean nothing: published corpora have texts that begin with one. Arrow's `open_csv` takes
    the rest of the file for a cell where a quote is never closed."""

    unit = "line"

    def __init__(self, path: Path, options: BuildOptions) -> None:
        super().__init__(path, path.stem)
        self._is_tsv = path.suffix.lower() in (".tsv", ".tab")
        line = next(lines_of(path, Problems(), remedy=_OF_TABLES), "")
        marks = ["\t"] if self._is_tsv else [m for m in ",;\t" if m in line] or [","]
        samples = {}
        for self._delimiter in marks:
            try:
                rows = itertools.islice(self._table(Problems()), SAMPLE_ROWS)
                samples[self._delimiter] = [row for _, row in rows]
            except InputError:  # before a quote of a text, another mark seems to begin a cell
                if self._delimiter == marks[-1] and not samples:
                    raise
        # A mark that only texts hold divides few rows into as many cells as the first row.
        self._delimiter, sample = max(
            samples.items(),
            key=lambda item: sum(1 < len(row) == len(item[1][0]) for row in item[1]),
        )
        if not sample:
            raise InputError(f"{path} has no rows. {_OF_TABLES}")
        self._width = len(sample[0])
        self._has_header = has_header(sample, options)
        names = [str(number + 1) for number in range(self._width)]
        if self._has_header:
            names = [cell.strip() for cell in sample.pop(0)]
        self.choose(names, sample, options)
        self.note += "" if self._has_header else ", the file has no header"
        self._places = names.index(self.content_column), names.index(self.label_column)

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
        end = num_bytes = 0  # of the last row, and the size of the one after it so far
        is_read = False

        def bounded() -> Generator[str, None, None]:
            nonlocal num_bytes, is_read
            for line in lines_of(self.path, problems, remedy=_OF_TABLES):
                num_bytes += len(line)
                # csv bounds each cell, but not their number, and other modules may set its limit.
                if num_bytes > MAX_TEXT_BYTES:
                    raise InputError(
                        f"{self.path}: the row that begins at line {end + 1} is longer than "
                        f"{MAX_TEXT_BYTES:,} bytes. {_OF_TABLES}"
                    )
                yield line
            is_read = True

        reader = csv.reader(bounded(), delimiter=self._delimiter, quoting=quoting)
        try:
            for row in reader:
                begin, end, num_bytes = end + 1, reader.line_num, 0
                if end > begin and is_read:
                    raise InputError(
                        f"{self.path}: a quote in the row that begins at line {begin} is never "
                        "closed. Close it, or double it."
                    )
                if row and not (begin == 1 and row[0] == "sep="):  # a line for Excel alone
                    yield end, row
        except csv.Error as error:
            raise InputError(
                f"{self.path}, line {reader.line_num}: {error}. {_OF_TABLES}"
            ) from error


class JsonlSource(TableSource):
    """A JSON object in each line. Arrow's reader of JSON refuses a file for one wrong line, or for
    labels of several types."""

    unit = "line"

    def __init__(self, path: Path, options: BuildOptions) -> None:
        super().__init__(path, path.stem)
        sample = [row for _, row in itertools.islice(self._objects(Problems()), SAMPLE_ROWS)]
        if not sample:
            raise InputError(f"{path} has no JSON object in its lines. {_OF_OBJECTS}")
        names = list(dict.fromkeys(name for row in sample for name in row))
        self.choose(names, [[row.get(name) for name in names] for row in sample], options)

    def rows(self, problems: Problems) -> Iterator[tuple[int, Any, Any, Part]]:
        for number, row in self._objects(problems):
            yield number, row.get(self.content_column), row.get(self.label_column), ""

    def _objects(self, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(lines_of(self.path, problems, remedy=_OF_OBJECTS), 1):
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield number, row
            else:
                problems.add("not a JSON object", self.where(number))


class SvmlightSource(Source):
    """Lines of the form `label id:value id:value ... # comment`, with values as weights, and one or
    several labels, joined by commas. Where the first id is 1, no row has the id 0."""

    unit = "line"
    kind = "sets"

    def __init__(self, path: Path) -> None:
        super().__init__(path, path.stem)
        sample = itertools.islice(lines_of(path, Problems(), remedy=_OF_IDS), _SAMPLE_LINES)
        heads = [line.partition(" ")[0] for line in sample if line.partition("#")[0].strip()]
        self.is_multi_label = any("," in head or not head or ":" in head for head in heads)

    def rows(self, problems: Problems) -> Iterator[tuple[int, Any, Any, Part]]:
        for number, line in enumerate(lines_of(self.path, problems, remedy=_OF_IDS), 1):
            line = line.partition("#")[0].strip()
            head, _, pairs = line.replace("\t", " ").partition(" ")
            if ":" in head:
                head, pairs = "", line
            if not line:
                continue
            labels = [_name(part) for part in head.split(",") if part]
            if not self.is_multi_label and len(labels) != 1:
                problems.add("several labels" if labels else "empty label", self.where(number))
            elif (row := _pairs(pairs.strip())) is None:
                problems.add("not a list of id:value", self.where(number))
            else:
                yield number, row, labels if self.is_multi_label else labels[0], ""


def _pairs(pairs: str) -> np.ndarray | None:
    if _PAIRS.fullmatch(pairs) is None:
        return None
    found = np.fromstring(pairs.replace(":", " "), sep=" ").reshape(-1, 2)
    highest, largest = found[:, 0].max(initial=0), np.abs(found[:, 1]).max(initial=0)
    return found if highest < INT32_MAX and largest <= _MAX_FLOAT32 else None


def _name(label: str) -> str:
    try:
        number = float(label)
    except ValueError:
        return label
    return str(int(number)) if number.is_integer() else label
