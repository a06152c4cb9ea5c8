"""Lines of text files from untrusted sources."""

from collections.abc import Iterator
from pathlib import Path

from harness.base.errors import InputError
from harness.base.reading import damage, opened
from harness.data.readers.cells import MAX_TEXT_BYTES
from harness.data.readers.records import Problems

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# Bytes of a file of which one is 0 in pictures, archives and spreadsheets. Later in a text, a NUL
# is a bad character of a row, which is counted.
_BEGINNING_BYTES = 10


def lines_of(path: Path | str, problems: Problems, *, remedy: str) -> Iterator[str]:
    """Yields the lines of a UTF-8 file with their breaks; counts and replaces invalid UTF-8."""
    with opened(path, remedy=remedy) as file, damage(path, what="a text file", remedy=remedy):
        beginning = file.peek(_BEGINNING_BYTES)[:_BEGINNING_BYTES]
        if beginning.startswith(_UTF16_MARKS):
            raise InputError(f"{path} is encoded in UTF-16. Save it as UTF-8.")
        if b"\0" in beginning:
            raise InputError(
                f"{path} is not text: it begins like a picture or a spreadsheet. {remedy}"
            )
        if beginning.startswith(_UTF8_MARK):
            file.read(len(_UTF8_MARK))
        number = 0
        while line := file.readline(MAX_TEXT_BYTES + 1):
            number += 1
            if len(line) > MAX_TEXT_BYTES:
                raise too_long(path, f"line {number}", remedy)
            yield decoded(line, problems, f"{path}, line {number}")


def too_long(path: Path | str, where: str, remedy: str) -> InputError:
    """Returns the error that a row is longer than it may be."""
    return InputError(
        f"{path}, {where} is longer than {MAX_TEXT_BYTES:,} bytes. Is a quote never closed? "
        f"{remedy}"
    )


def decoded(content: bytes | bytearray, problems: Problems, where: str) -> str:
    """Decodes UTF-8; replaces invalid bytes by U+FFFD, and counts the text as a problem."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        problems.add("invalid UTF-8", where)
        return content.decode(errors="replace")
