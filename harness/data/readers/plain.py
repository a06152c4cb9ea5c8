"""CSV whose quotes are plain: each opens or closes a cell, or is one of two that stand for one.

Such rows are cut without being parsed, and Arrow parses them as Python's csv does. Of others
Python's module says what they mean.
"""

from collections.abc import Sequence

import numpy as np

from harness.data.readers.lines import UTF8_MARK

_QUOTE, _LINE_BREAK, _RETURN = b'"\n\r'


def end_of_rows(content: bytes, delimiter: str, *, has_quotes: bool) -> int:
    """Where the last row ends in bytes that begin with one; 0 where none does, or where quotes are
    not plain."""
    if not has_quotes:
        return content.rfind(b"\n") + 1
    codes = np.frombuffer(content, np.uint8)
    quotes = np.flatnonzero(codes == _QUOTE)
    if not _are_plain(codes, quotes, ord(delimiter)):
        return 0
    end = len(content)
    while end := content.rfind(b"\n", 0, end) + 1:
        num_before = int(np.searchsorted(quotes, end))
        if num_before % 2 == 0:
            break
        end = int(quotes[num_before - 1])  # of the cell that the line break is in
    return end


def _are_plain(codes: np.ndarray, quotes: np.ndarray, delimiter: int) -> bool:
    """Whether each quote is one that opens or closes a cell if the last one did the opposite."""
    opening, closing = quotes[::2], quotes[1::2]
    doubled = opening[1:] == closing[: len(opening) - 1] + 1
    before = codes[opening - 1]
    opens = (before == delimiter) | (before == _LINE_BREAK) | (opening == 0)
    opens[1:] |= doubled
    inside = closing[closing + 1 < len(codes)]
    after = codes[inside + 1]
    closes = (after == delimiter) | (after == _LINE_BREAK) | (after == _RETURN)
    closes[: len(doubled)] |= doubled[: len(closes)]
    return bool(opens.all() and closes.all())


def cells_of(
    content: bytes, delimiter: str, *, has_quotes: bool, width: int, columns: Sequence[int]
) -> list[list[str]] | None:
    """Cells of some columns in plain rows, column by column; None where something is wrong with a
    row, or where Arrow would read another content than Python.

    Args:
        content: whole rows.
        delimiter: of cells.
        has_quotes: whether quotes mean anything.
        width: columns of the table.
        columns: to return.
    """
    import pyarrow
    from pyarrow import csv

    if content.count(b"\r") != content.count(b"\r\n") or content.startswith(UTF8_MARK):
        return None
    try:
        content.decode()  # Arrow looks at the chosen columns only
    except UnicodeDecodeError:
        return None
    names = list(map(str, range(width)))
    chosen = [names[column] for column in columns]
    try:
        table = csv.read_csv(
            pyarrow.BufferReader(content),
            csv.ReadOptions(use_threads=False, block_size=len(content), column_names=names),
            csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if has_quotes else False,
                newlines_in_values=True,
            ),
            csv.ConvertOptions(
                include_columns=chosen, column_types=dict.fromkeys(chosen, pyarrow.string())
            ),
        )
    except pyarrow.ArrowInvalid:  # as of a short row
        return None
    return [table.column(name).to_pylist() for name in chosen]
