"""CSV with plain quotes: each opens or closes a cell, or is one of a pair that stands for one.

Such rows can be cut without parsing, and Arrow parses them as Python's csv does. All others are
left to Python's csv.
"""

from collections.abc import Sequence

import numpy as np

from harness.data.readers.lines import UTF8_MARK

_QUOTE, _LINE_BREAK, _RETURN = b'"\n\r'


def end_of_rows(content: bytes, delimiter: str, *, has_quotes: bool) -> int:
    """Returns the end of the last whole row in bytes that begin with a row; 0 if no row ends in
    them or quotes are not plain."""
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
        end = int(quotes[num_before - 1])  # the opening quote of the cell that holds the line break
    return end


def _are_plain(codes: np.ndarray, quotes: np.ndarray, delimiter: int) -> bool:
    """Whether quotes open and close cells in turn."""
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
    """Returns the cells of some columns in plain rows, column by column. Returns None if a row is
    wrong, or Arrow would read it differently from Python.

    Args:
        content: whole rows.
        delimiter: the delimiter of cells.
        has_quotes: whether quotes mean anything.
        width: number of columns of the table.
        columns: numbers of the columns to return.
    """
    import pyarrow
    from pyarrow import csv

    if content.count(b"\r") != content.count(b"\r\n") or content.startswith(UTF8_MARK):
        return None
    try:
        content.decode()  # Arrow checks the chosen columns only
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
    except pyarrow.ArrowInvalid:  # such as a short row
        return None
    return [table.column(name).to_pylist() for name in chosen]
