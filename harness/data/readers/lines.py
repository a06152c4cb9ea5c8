"""Lines of text files from untrusted sources."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from harness.base.errors import InputError
from harness.base.reading import damage, opened
from harness.data.readers.records import MAX_TEXT_BYTES, Problems

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BEGINNING_BYTES = 10
"""Bytes of a file of which one is 0 in pictures, archives and spreadsheets. Later in a text,
a NUL is a bad character of a row, which is counted."""


def lines_of(path: Path, problems: Problems, *, remedy: str) -> Iterator[tuple[int, int, str]]:
    """Yields the number of each line of a UTF-8 file, its end in bytes, and its text with the line
    break. Replaces and counts invalid UTF-8."""
    with opened(path, remedy=remedy) as file, damage(path, what="a text file", remedy=remedy):
        end, beginning = 0, file.peek(_BEGINNING_BYTES)[:_BEGINNING_BYTES]
        if beginning.startswith(_UTF16_MARKS):
            raise InputError(f"{path} is encoded in UTF-16. Save it as UTF-8.")
        if b"\0" in beginning:
            raise InputError(
                f"{path} is not text: it begins like a picture or a spreadsheet. {remedy}"
            )
        for number in itertools.count(1):
            line = file.readline(MAX_TEXT_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_TEXT_BYTES:
                raise too_long(path, f"line {number}", remedy)
            end += len(line)
            if number == 1:
                line = line.removeprefix(_UTF8_MARK)
            yield number, end, decoded(line, problems, path, "line", number)


def too_long(path: Path, where: str, remedy: str) -> InputError:
    """Returns the error that a row is longer than it may be."""
    return InputError(
        f"{path}, {where} is longer than {MAX_TEXT_BYTES:,} bytes. Is a quote never closed? "
        f"{remedy}"
    )


def decoded(
    content: bytes | bytearray, problems: Problems, path: Path | str, unit: str, number: int | str
) -> str:
    """Decodes UTF-8; replaces invalid bytes by U+FFFD, and counts the text as a problem."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        problems.add("invalid UTF-8", f"{path}, {unit} {number}")
        return content.decode(errors="replace")
