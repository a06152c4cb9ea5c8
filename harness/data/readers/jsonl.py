"""JSONL files, with a JSON object in each line."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.readers.columns import SAMPLE_ROWS, TableSource
from harness.data.readers.records import Part, Problems, lines_of

_REMEDY = "Give a JSON object a line."


class JsonlSource(TableSource):
    """Arrow's reader of JSON refuses a file for one wrong line, or for labels of several types."""

    unit = "line"

    def __init__(self, path: Path, options: BuildOptions) -> None:
        super().__init__(path, path.stem)
        sample = [row for _, row in itertools.islice(self._objects(Problems()), SAMPLE_ROWS)]
        if not sample:
            raise InputError(f"{path} has no JSON object in its lines. {_REMEDY}")
        names = list(dict.fromkeys(name for row in sample for name in row))
        self.choose(names, [[row.get(name) for name in names] for row in sample], options)

    def rows(self, problems: Problems) -> Iterator[tuple[int, Any, Any, Part]]:
        for number, row in self._objects(problems):
            yield number, row.get(self.content_column), row.get(self.label_column), ""

    def _objects(self, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(lines_of(self.path, problems, remedy=_REMEDY), 1):
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
