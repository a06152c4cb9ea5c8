"""JSONL files, with a JSON object in each line."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.readers.columns import choose
from harness.data.readers.lines import Lines
from harness.data.readers.records import BLOCK_BYTES, Block, Problems
from harness.data.readers.rows import Row, RowFormat, blocks_of, kind_of, labelling_of

_SAMPLE_ROWS = 200
_REMEDY = "Give a JSON object a line."


class JsonlSource:
    """A JSONL file: texts, lists of strings or lists of ids, with a label or a list of labels."""

    def __init__(self, path: Path, options: BuildOptions) -> None:
        """Raises InputError unless it is plain which keys to read."""
        self.path, self.name = path, path.stem
        sample = [row for _, row in itertools.islice(self._rows(Problems()), _SAMPLE_ROWS)]
        if not sample:
            raise InputError(f"{path} has no JSON object in its lines. {_REMEDY}")
        names = list(dict.fromkeys(name for row in sample for name in row))
        cells = [[str(row.get(name, "")) for name in names] for row in sample]
        self._columns = columns = choose(path, names, cells, options)
        labels = [row.get(columns.label) for row in sample]
        self._format = RowFormat(
            path=path,
            unit="line",
            kind=kind_of(row.get(columns.content) for row in sample),
            labelling=labelling_of(labels, options.label_separator),
            separator=options.label_separator,
        )
        self.note = columns.note

    def num_bytes(self) -> int | None:
        """Returns the size of the file."""
        return self.path.stat().st_size

    def blocks(self, problems: Problems, *, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
        """Yields all lines that hold a JSON object with the content and a label."""
        return blocks_of(self._labelled(problems), self._format, problems, block_bytes=block_bytes)

    def _labelled(self, problems: Problems) -> Iterator[Row]:
        content, label = self._columns.content, self._columns.label
        for number, row in self._rows(problems):
            yield "", number, row.get(content), row.get(label)

    def _rows(self, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
        lines = Lines(self.path, problems, remedy=_REMEDY)
        for line in lines:
            lines.start_row()
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield lines.number, row
            else:
                problems.add("not a JSON object", f"{self.path}, line {lines.number}")
