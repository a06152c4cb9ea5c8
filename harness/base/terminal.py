"""Standard streams, and consoles on them, that outlast their terminal."""

import copy
import html
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, TextIO, cast

from rich.console import Console
from rich.table import Table

_SECONDS_BETWEEN_LINES = 30.0  # of progress, where there is no terminal


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


@contextmanager
def progress_line(console: Console) -> Iterator[Callable[[str], None]]:
    """Yields a callback that is told what is being done. A terminal shows the last text in a line
    that moves, with the seconds since the beginning; elsewhere a line is printed now and then."""
    begin = printed = time.monotonic()

    def print_some(text: str) -> None:
        nonlocal printed
        if (now := time.monotonic()) - printed >= _SECONDS_BETWEEN_LINES:
            printed = now
            console.print(f"{text} ({now - begin:.0f} s)", markup=False, highlight=False)

    if not console.is_terminal:
        yield print_some
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # slow

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("")
        yield lambda text: shown.update(task, description=text)


def table_of(headings: Iterable[Any], rows: Iterable[Iterable[Any]], **look: Any) -> Table:
    """Returns a table whose first column has names, and whose others have numbers."""
    table = Table(**look)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(headings: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns a table as Markdown, with every text shown as it is. Columns without letters align
    right; a row may be shorter than the headings."""

    def cell(text: str) -> str:
        return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))

    head, *body = ([cell(text) for text in row] for row in (headings, *rows))
    columns = zip(*(row for row in body if len(row) == len(head)), strict=True)
    rule = ["---" if any(map(str.isalpha, "".join(column))) else "---:" for column in columns]
    lines = head, rule or ["---"] * len(head), *body
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
