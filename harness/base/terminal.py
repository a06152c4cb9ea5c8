"""Standard streams, and consoles on them, that outlast their terminal."""

import copy
import os
import sys
from collections.abc import Iterable
from io import TextIOWrapper
from itertools import zip_longest
from typing import Any, TextIO, cast

from rich.console import Console
from rich.table import Table


class LastingStream:
    """Passes text on to a stream until the stream fails, then drops the rest: its terminal was
    closed, the reader of its pipe has ended, or its disk is full. Work then goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None  # by which the stream failed

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, action: Any, *arguments: str) -> None:
        if self.error is None:
            try:
                action(*arguments)
            except OSError as error:
                self.error = error


def lasting(console: Console) -> Console:
    """Returns a copy of `console` that goes quiet once its terminal or pipe's reader is gone."""
    copied = copy.copy(console)
    copied.file = cast(TextIO, LastingStream(console.file))
    return copied


def table_of(headings: Iterable[Any], rows: Iterable[Iterable[Any]], **look: Any) -> Table:
    """Returns a table whose first column has names, and whose others have numbers."""
    table = Table(**look)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(headings: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Returns a table of a row or more as Markdown. Columns in which no cell is a number align
    left."""
    table = [
        [" ".join(str(cell).split()).replace("|", "\\|") for cell in row]
        for row in (headings, *rows)
    ]
    table.insert(1, [])
    for column in zip_longest(*table[2:], fillvalue=""):
        has_numbers = any(cell and not any(map(str.isalpha, cell)) for cell in column)
        table[1].append("---:" if has_numbers else "---")
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def prepare_standard_streams() -> None:
    """Makes the streams of this process outlast their terminal, print any character, and read any.
    A stream that was closed before the start becomes /dev/null, so that no opened file gets its
    number, and no output of libraries."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)
    os.close(null)
    sys.stdin = sys.stdin or os.fdopen(0)
    cast(TextIOWrapper, sys.stdin).reconfigure(errors="replace")
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name) or os.fdopen(number, "w")
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, LastingStream(stream))
