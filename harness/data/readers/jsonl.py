"""JSONL files, with a JSON object in each line."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.readers.columns import choose
from harness.data.readers.lines import lines_of
from harness.data.readers.records import Block, Problems, Source
from harness.data.readers.rows import collected, format_of

_SAMPLE_ROWS = 200
_REMEDY = "Give a JSON object a line."


class JsonlSource(Source):
    """A JSONL file: texts, lists of strings or lists of ids, with a label or a list of labels.

    Arrow's reader of JSON refuses a file for one wrong line, or for labels of several types.
    """

    def __init__(self, path: Path, options: BuildOptions) -> None:
        self.path, self.name = path, path.stem
        sample = [row for _, row in itertools.islice(self._objects(Problems()), _SAMPLE_ROWS)]
        if not sample:
            raise InputError(f"{path} has no JSON object in its lines. {_REMEDY}")
        names = list(dict.fromkeys(name for row in sample for name in row))
        cells = [[str(row.get(name, "")) for name in names] for row in sample]
        self._columns = columns = choose(path, names, cells, options)
        contents, labels = ([row.get(name) for row in sample] for name in columns)
        self._form = format_of(path, "line", contents, labels, options.label_separator)
        self.note = columns.note

    def blocks(self, problems: Problems) -> Iterator[Block]:
        content, label = self._columns
        rows = ((n, row.get(content), row.get(label)) for n, row in self._objects(problems))
        return collected(rows, self._form, problems)

    def _objects(self, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, _, line in lines_of(self.path, problems, remedy=_REMEDY):
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield number, row
            else:
                problems.add("not a JSON object", f"{self.path}, line {number}")
